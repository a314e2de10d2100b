//! Symbols that a spreadsheet took for dates: MARCH1 became 1-Mar, SEPT2 became 2-Sep, DEC1 became
//! 1-Dec.

/// The official symbol behind a date, with what else it may have been.
///
/// These families were renamed for that reason: MARCH1 is MARCHF1, SEPT2 is SEPTIN2, DEC1 is
/// DELEC1.
pub(crate) fn repair(word: &str) -> Option<(String, Option<&'static str>)> {
    let lower = word.trim().to_lowercase();
    // A cell of dates that a program read carries a time: 2023-03-01 00:00:00.
    let date = [" 00:00:00", "t00:00:00"].iter().find_map(|time| lower.split_once(time)).map_or(&*lower, |it| it.0);
    let parts: Vec<&str> = date.split(['-', '/', '.', ' ']).collect();
    let is_year = |part: &str| part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_digit());
    // 1-Mar, Mar-1, Mar-01; 1-Mar-23; 2023-03-01. 3/1/2023 may be of January or of March.
    let (month, number) = match parts.as_slice() {
        [a, b] | [a, b, _] if month(a).is_some() != month(b).is_some() => {
            (month(a).or(month(b))?, [a, b][usize::from(month(a).is_some())])
        }
        [year, month, day] if is_year(year) => match month.parse() {
            Ok(3) => ("mar", day),
            Ok(9) => ("sep", day),
            Ok(12) => ("dec", day),
            _ => return None,
        },
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    let fits = |last| (1..=last).contains(&number);
    match month {
        // MARC1 and MARC2 (now MTARC1, MTARC2) look the same once mangled.
        "mar" if number == 1 && fits(11) => Some(("MARCHF1".to_owned(), Some("MTARC1"))),
        "mar" if number == 2 => Some(("MARCHF2".to_owned(), Some("MTARC2"))),
        "mar" if fits(11) => Some((format!("MARCHF{number}"), None)),
        // SEPT13 was withdrawn; SEP15 became SELENOF.
        "sep" if number == 15 => Some(("SELENOF".to_owned(), None)),
        "sep" if fits(14) && number != 13 => Some((format!("SEPTIN{number}"), None)),
        "dec" if number == 1 => Some(("DELEC1".to_owned(), Some("BHLHE40"))),
        _ => None,
    }
}

/// The symbol that replaced one of these families' old ones: SEPT2 is SEPTIN2, MARCH1 is MARCHF1.
pub(crate) fn renamed(upper: &str) -> Option<String> {
    let families = [("SEPT", "SEPTIN"), ("MARCH", "MARCHF")];
    families.iter().find_map(|(old, new)| {
        let number = upper.strip_prefix(old)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| format!("{new}{number}"))
    })
}

fn month(word: &str) -> Option<&'static str> {
    match word {
        "mar" | "march" => Some("mar"),
        "sep" | "sept" | "september" => Some("sep"),
        "dec" | "december" => Some("dec"),
        _ => None,
    }
}

/// The number of a day from 2000 to 2050, as spreadsheets count them.
pub(crate) fn is_serial(word: &str) -> bool {
    word.parse().is_ok_and(|day: u32| (36_526..=55_153).contains(&day))
}

/// A number in scientific notation, such as 2.31E+13: a clone's name that a spreadsheet took for a
/// number.
pub(crate) fn is_mangled_number(word: &str) -> bool {
    let upper = word.to_uppercase();
    upper.contains("E+") && upper.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_symbols_again() {
        let cases = [
            ("1-Mar", "MARCHF1"),
            ("Mar-01", "MARCHF1"),
            ("11-Mar", "MARCHF11"),
            ("5-MAR", "MARCHF5"),
            ("2-Sep", "SEPTIN2"),
            ("14-Sep", "SEPTIN14"),
            ("15-Sep", "SELENOF"),
            ("1-Dec", "DELEC1"),
            ("1-Mar-23", "MARCHF1"),
            ("Mar 3 2023", "MARCHF3"),
            ("2023-03-05", "MARCHF5"),
            ("2023/9/7", "SEPTIN7"),
            ("2021-09-02 00:00:00", "SEPTIN2"),
            ("2021-12-01T00:00:00", "DELEC1"),
        ];
        for (mangled, expected) in cases {
            assert_eq!(repair(mangled).map(|it| it.0).as_deref(), Some(expected), "{mangled}");
        }
        for other in
            ["12-Mar", "13-Sep", "HLA-A", "NKX2-1", "1-Jan", "0-Sep", "2023-01-03", "3/1/2023", "2023-03-31", "a-b-c"]
        {
            assert_eq!(repair(other), None, "{other}");
        }
        assert!(is_mangled_number("2.31E+13"));
        assert!(!is_mangled_number("TP53"));
    }
}
