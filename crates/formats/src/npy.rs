//! NumPy's `.npy` files of matrices, version 1 to write, any to read.
//!
//! The crates that know the whole format bring a parser of Python literals with its generator,
//! which take longer to build than all of this crate; a matrix of floats needs one line of header.

use std::io::{self, Write};

/// Writes `[rows, width]` numbers, row-major.
///
/// # Errors
/// What `out` says.
pub fn write(out: &mut dyn Write, width: usize, values: &[f32]) -> io::Result<()> {
    let rows = values.len() / width.max(1);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // Magic, version and length take 10 bytes; the data must start at a multiple of 64.
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for value in values {
        out.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

/// Reads a matrix of float32 or float64 numbers: its rows and columns, then the numbers, row-major.
///
/// # Errors
/// What is wrong with the file, in words that follow its name.
pub fn read(bytes: &[u8]) -> Result<([usize; 2], Vec<f32>), String> {
    const CUT: &str = "is cut short";
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or("is no .npy file")?;
    // Version 1 counts its header in two bytes, all later ones in four.
    let counted = if rest.first() == Some(&1) { 2 } else { 4 };
    let length = rest.get(2..2 + counted).ok_or(CUT)?;
    let length = length.iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (header, data) = rest[2 + counted..].split_at_checked(length).ok_or(CUT)?;
    let header = String::from_utf8_lossy(header).replace(' ', "");
    if header.contains("'fortran_order':True") {
        return Err("is in Fortran order; save it with numpy.ascontiguousarray".to_owned());
    }
    let shape = header.split("'shape':(").nth(1).and_then(|it| it.split(')').next()).unwrap_or("");
    let shape: Vec<usize> = shape.split(',').filter_map(|n| n.parse().ok()).collect();
    let [rows, width] = shape[..] else {
        let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
        return Err(format!("has shape ({}), expected (rows, width)", shape.join(", ")));
    };
    if width == 0 && rows > 0 {
        return Err(format!("has shape ({rows}, 0): rows without numbers"));
    }
    let values: Vec<f32> = if header.contains("'<f4'") {
        data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    } else if header.contains("'<f8'") {
        data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect()
    } else {
        return Err("expected float32 or float64 numbers".to_owned());
    };
    if rows.checked_mul(width) != Some(values.len()) {
        return Err(CUT.to_owned());
    }
    Ok(([rows, width], values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_starts_on_a_boundary_and_reads_back() {
        let values = [1.0, -2.5, 3.0, 4.0, 0.1, 1e-8];
        let mut file = Vec::new();
        write(&mut file, 2, &values).unwrap();
        let length = usize::from(u16::from_le_bytes([file[8], file[9]]));
        assert_eq!((&file[..8], (10 + length) % 64), (&b"\x93NUMPY\x01\x00"[..], 0));
        assert!(String::from_utf8_lossy(&file[10..]).contains("'shape': (3, 2)"));
        assert_eq!(read(&file), Ok(([3, 2], values.to_vec())));
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_numpy_writes_of_other_matrices_is_read_or_refused_by_name() {
        let file = |version: u8, header: &str, data: &[u8]| {
            let length = (header.len() as u32).to_le_bytes();
            let length = &length[..if version == 1 { 2 } else { 4 }];
            [&b"\x93NUMPY"[..], &[version, 0], length, header.as_bytes(), data].concat()
        };
        let header = |descr: &str, fortran: &str, shape: &str| {
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
        };
        let one = 1.5f64.to_le_bytes();
        assert_eq!(read(&file(2, &header("<f8", "False", "(1, 1)"), &one)), Ok(([1, 1], vec![1.5])));
        for (descr, fortran, shape, says) in [
            ("<f8", "True", "(1, 1)", "Fortran order"),
            ("<f8", "False", "(1,)", "has shape (1), expected (rows, width)"),
            ("<i8", "False", "(1, 1)", "expected float32 or float64"),
            ("<f8", "False", "(1, 2)", "cut short"),
            ("<f8", "False", "(4294967296, 4294967296)", "cut short"),
            ("<f8", "False", "(18446744073709551615, 0)", "rows without numbers"),
        ] {
            let problem = read(&file(1, &header(descr, fortran, shape), &one)).unwrap_err();
            assert!(problem.contains(says), "{problem}");
        }
    }
}
