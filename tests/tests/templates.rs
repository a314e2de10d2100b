//! Public chat templates against transformers; `cargo xtask templates` collects them and runs this.

use std::path::PathBuf;

#[test]
fn public_templates_are_rendered_and_masked_as_transformers_does() {
    let Some(folder) = std::env::var_os("BFT_TEST_TEMPLATES").map(PathBuf::from) else {
        eprintln!("BFT_TEST_TEMPLATES names no folder: public chat templates are left out (cargo xtask templates)");
        return;
    };
    let path = folder.join("templates.json");
    let json = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let report = bft_tests::templates::compare(&json).unwrap_or_else(|error| panic!("{error}"));
    println!("{}", report.table);
    assert!(report.unknown.is_empty(), "{}", report.unknown.join("\n"));
}
