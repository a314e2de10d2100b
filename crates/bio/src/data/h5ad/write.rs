//! Vectors as an AnnData file: one row a gene, the vectors in `obsm`.

use std::path::Path;

use hdf5_pure::{AttrValue, FileBuilder};

use crate::error::{BioError, Result};

fn text(words: &str) -> AttrValue {
    AttrValue::VarLenString(words.to_owned())
}

/// Writes genes as `obs` (symbol and the word each came by) and `[genes, width]` vectors as
/// `obsm/NAME`.
pub fn write_obsm(
    path: &Path,
    name: &str,
    symbols: &[&str],
    words: &[&str],
    width: usize,
    values: &[f32],
) -> Result<()> {
    let mut builder = FileBuilder::new();
    builder.set_attr("encoding-type", text("anndata"));
    builder.set_attr("encoding-version", text("0.1.0"));
    for (frame, columns) in [("obs", vec![("_index", symbols), ("input", words)]), ("var", vec![("_index", &[][..])])] {
        let mut group = builder.create_group(frame);
        group.set_attr("encoding-type", text("dataframe"));
        group.set_attr("encoding-version", text("0.2.0"));
        group.set_attr("_index", text("_index"));
        let order = columns.iter().map(|(name, _)| (*name).to_owned()).filter(|name| name != "_index").collect();
        group.set_attr("column-order", AttrValue::VarLenStringArray(order));
        for (column, cells) in columns {
            let data = group.create_dataset(column);
            data.with_vlen_strings(cells);
            data.set_attr("encoding-type", text("string-array"));
            data.set_attr("encoding-version", text("0.2.0"));
        }
        builder.add_group(group.finish());
    }
    let mut group = builder.create_group("obsm");
    group.set_attr("encoding-type", text("dict"));
    group.set_attr("encoding-version", text("0.1.0"));
    let data = group.create_dataset(name);
    data.with_f32_data(values).with_shape(&[symbols.len() as u64, width as u64]);
    data.set_attr("encoding-type", text("array"));
    data.set_attr("encoding-version", text("0.2.0"));
    builder.add_group(group.finish());
    let bytes = builder.finish().map_err(|error| BioError::file(path, format!("cannot be written: {error}")))?;
    bft_formats::write_atomic(path, |out| out.write_all(&bytes))?;
    Ok(())
}
