//! A small gene database with made-up annotation, in the layout of org.Hs.eg.

use std::path::Path;

use bft_bio::data::genome::Genome;
use rusqlite::Connection;

const TABLES: &str = "
CREATE TABLE genes (_id INTEGER PRIMARY KEY, gene_id TEXT);
CREATE TABLE gene_info (_id INTEGER, gene_name TEXT, symbol TEXT);
CREATE TABLE genetype (_id INTEGER, gene_type TEXT);
CREATE TABLE alias (_id INTEGER, alias_symbol TEXT);
CREATE TABLE ensembl (_id INTEGER, ensembl_id TEXT);
CREATE TABLE go_bp (_id INTEGER, go_id TEXT, evidence TEXT);
CREATE TABLE go_mf (_id INTEGER, go_id TEXT, evidence TEXT);
CREATE TABLE go_bp_all (_id INTEGER, go_id TEXT, evidence TEXT);
CREATE TABLE pubmed (_id INTEGER, pubmed_id TEXT);
CREATE TABLE cytogenetic_locations (_id INTEGER, cytogenetic_location TEXT);
";

/// Entrez id, symbol, name, aliases, Ensembl id, whether it encodes a protein.
type Gene = (&'static str, &'static str, &'static str, &'static [&'static str], &'static str, bool);

/// Real genes that the resolver's rules are about.
const GENES: [Gene; 21] = [
    ("7157", "TP53", "tumor protein p53", &["P53", "LFS1"], "ENSG00000141510", true),
    ("1956", "EGFR", "epidermal growth factor receptor", &["ERBB1", "HER1"], "ENSG00000146648", true),
    ("55016", "MARCHF1", "membrane associated ring-CH-type finger 1", &["MARCH1"], "ENSG00000145416", true),
    ("64757", "MTARC1", "mitochondrial amidoxime reducing component 1", &["MARC1"], "ENSG00000186205", true),
    ("4735", "SEPTIN2", "septin 2", &["SEPT2"], "ENSG00000168385", true),
    ("23157", "SEPTIN6", "septin 6", &["SEPT2"], "ENSG00000125354", true),
    ("4535", "ND1", "NADH dehydrogenase subunit 1", &["MTND1"], "ENSG00000198888", true),
    ("7504", "XK", "X-linked Kx blood group antigen", &["NA", "KX"], "ENSG00000047597", true),
    ("11280", "SCN11A", "sodium voltage-gated channel alpha subunit 11", &["NaN", "NAV1.9"], "ENSG00000168356", true),
    ("7124", "TNF", "tumor necrosis factor", &["TNF-alpha", "TNFA"], "ENSG00000232810", true),
    ("3123", "HLA-DRB1", "major histocompatibility complex, class II, DR beta 1", &[], "ENSG00000196126", true),
    ("1482", "NKX2-5", "NK2 homeobox 5", &["CSX1"], "ENSG00000183072", true),
    ("203228", "C9orf72", "C9orf72-SMCR8 complex subunit", &["ALSFTD"], "ENSG00000147894", true),
    ("2626", "GATA4", "GATA binding protein 4", &[], "ENSG00000136574", true),
    ("50514", "DELEC1", "deleted in esophageal cancer 1", &["DEC1"], "ENSG00000173077", true),
    ("29126", "CD274", "CD274 molecule", &["PD-L1"], "ENSG00000120217", true),
    ("8350", "H3C1", "H3 clustered histone 1", &["HIST1H3A"], "ENSG00000275714", true),
    ("406991", "MIR21", "microRNA 21", &["hsa-mir-21"], "ENSG00000284190", false),
    ("100", "AAA1", "first of two", &["TWIN", "HALF"], "ENSG00000000100", true),
    ("101", "AAA2", "second of two", &["TWIN"], "ENSG00000000101", true),
    ("102", "AAA3", "without a protein", &["HALF"], "ENSG00000000102", false),
];

/// Those genes, and `G01` to `G24` of the synthetic cells.
pub fn genome(folder: &Path) -> Genome {
    let path = folder.join("genes.sqlite");
    let database = Connection::open(&path).expect("a database");
    database.execute_batch(TABLES).expect("tables");
    let made: Vec<(String, String)> = (1..=24).map(|n| (format!("{}", 900_000 + n), format!("G{n:02}"))).collect();
    let made = made.iter().map(|(id, symbol)| (id.as_str(), symbol.as_str(), "made-up gene", &[][..], "", true));
    for (key, (entrez, symbol, name, aliases, ensembl, coding)) in GENES.into_iter().chain(made).enumerate() {
        let run = |query: &str, values: &[&str]| {
            let all: Vec<String> =
                std::iter::once(key.to_string()).chain(values.iter().map(|v| (*v).to_owned())).collect();
            database.execute(query, rusqlite::params_from_iter(all)).expect("a row");
        };
        run("INSERT INTO genes VALUES (?, ?)", &[entrez]);
        run("INSERT INTO gene_info VALUES (?, ?, ?)", &[name, symbol]);
        run("INSERT INTO genetype VALUES (?, ?)", &[if coding { "protein-coding" } else { "ncRNA" }]);
        for alias in aliases.iter().chain([&symbol]) {
            run("INSERT INTO alias VALUES (?, ?)", &[alias]);
        }
        if !ensembl.is_empty() {
            run("INSERT INTO ensembl VALUES (?, ?)", &[ensembl]);
        }
    }
    drop(database);
    Genome::open(&path).expect("the genes")
}
