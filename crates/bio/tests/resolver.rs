//! Gene lists as biologists keep them.

mod common;

use bft_bio::data::gmt::GeneSets;
use bft_bio::data::pairs::Pairs;
use bft_bio::data::vectors::NamedVectors;
use bft_bio::genes::list::GeneList;
use bft_bio::genes::resolver::{Mapping, Resolved, Resolver};

fn symbol(resolver: &Resolver<'_>, word: &str) -> String {
    match resolver.resolve(word) {
        Resolved::Mapped { gene, .. } => resolver.genome().genes[gene].symbol.clone(),
        Resolved::Ambiguous(genes) => {
            let symbols: Vec<&str> = genes.iter().map(|gene| resolver.genome().genes[*gene].symbol.as_str()).collect();
            format!("? {}", symbols.join(" "))
        }
        Resolved::Unmapped(_) => "-".to_owned(),
    }
}

#[test]
fn every_kind_of_name_finds_its_gene() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    for (word, expected) in [
        ("TP53", "TP53"),
        ("tp53 ", "TP53"),
        ("\"TP53\"", "TP53"),
        ("P53", "TP53"),
        ("p53", "TP53"),
        ("7157", "TP53"),
        ("ENSG00000141510", "TP53"),
        ("ensg00000141510.17", "TP53"),
        ("1-Mar", "MARCHF1"),
        ("MARCH1", "MARCHF1"),
        ("2-Sep", "SEPTIN2"),
        ("SEPT2", "SEPTIN2"),
        ("MT-ND1", "ND1"),
        ("TWIN", "? AAA1 AAA2"),
        ("HALF", "AAA1"),
        ("NOSUCH", "-"),
        ("ENSG00000999999", "-"),
        ("999999", "-"),
        ("", "-"),
    ] {
        assert_eq!(symbol(&resolver, word), expected, "{word}");
    }
}

#[test]
fn nothing_is_dropped_in_silence() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    let path = folder.path().join("genes.txt");
    std::fs::write(&path, "\u{feff}Gene\r\nTP53\r\n1-Mar\r\n\r\np53\r\nTWIN\r\nNOSUCH\r\n2.31E+13\r\n")
        .expect("a file");
    let list = GeneList::read(&path, &resolver).expect("a list");
    assert_eq!(list.header.as_deref(), Some("Gene"));
    let mapping = Mapping::new(&resolver, list.words.iter().map(String::as_str));
    assert_eq!(mapping.words(), 6);
    assert_eq!(
        (mapping.genes.len(), mapping.duplicates.len(), mapping.ambiguous.len(), mapping.unmapped.len()),
        (2, 1, 1, 2)
    );
    let details: Vec<String> = mapping.details(&genome).iter().map(|row| row.join("|")).collect();
    let told = |part: &str| assert!(details.iter().any(|row| row.contains(part)), "{part} in {details:?}");
    let parts = [
        "NOSUCH|unmapped",
        "2.31E+13|unmapped||a number made by a spreadsheet",
        "TWIN|ambiguous|AAA1 or AAA2",
        "1-Mar|mapped|MARCHF1",
        "p53|duplicate|TP53",
    ];
    parts.into_iter().for_each(told);

    // A column of a table, found by its header or by what is in it.
    std::fs::write(&path, "rank,symbol,score\n1,EGFR,0.5\n2,TP53,0.4\n").expect("a file");
    let list = GeneList::read(&path, &resolver).expect("a list");
    assert_eq!((list.words.join(" "), list.column), ("EGFR TP53".to_owned(), Some(2)));
    std::fs::write(&path, "a1\tEGFR\na2\tTP53\n").expect("a file");
    assert_eq!(GeneList::read(&path, &resolver).expect("a list").words.join(" "), "EGFR TP53");
    std::fs::write(&path, "\n").expect("a file");
    assert!(GeneList::read(&path, &resolver).expect_err("empty").to_string().contains("is empty"));
}

#[test]
fn bad_pairs_and_sets_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    let path = folder.path().join("pairs.tsv");
    std::fs::write(&path, "gene_a\tgene_b\tlabel\nTP53\tEGFR\t1\nEGFR\tP53\t1\nTP53\tp53\t1\nG01\tG02\t0\nG03\tG04\t1\nG04\tG03\t0\nTP53\tNOSUCH\t1\n").expect("a file");
    let pairs = Pairs::read(&path, &resolver).expect("pairs");
    assert_eq!((pairs.positives.len(), pairs.negatives.len()), (1, 1));
    let notes = pairs.notes.join("\n");
    for part in [
        "1 pairs of a gene with itself left out: line 4",
        "1 pairs labelled both 1 and 0 left out: G03 G04",
        "NOSUCH",
        "1 repeated pairs",
    ] {
        assert!(notes.contains(part), "{part} in {notes}");
    }
    std::fs::write(&path, "TP53\tEGFR\tmaybe\n").expect("a file");
    assert!(
        Pairs::read(&path, &resolver)
            .expect_err("a bad label")
            .to_string()
            .contains("line 1: label 'maybe', expected 1 or 0")
    );

    let path = folder.path().join("sets.gmt");
    std::fs::write(&path, "GOOD\tabout\tTP53\tEGFR\tNOSUCH\nEMPTY\tabout\n").expect("a file");
    let sets = GeneSets::read_gmt(&path, &resolver).expect("sets");
    assert_eq!(sets.sets.len(), 1);
    assert!(sets.notes.iter().any(|note| note.contains("line 2, EMPTY: an empty set")), "{:?}", sets.notes);
    assert!(sets.notes.iter().any(|note| note.contains("no gene for NOSUCH")));
}

#[test]
fn vectors_come_from_any_text_and_bad_ones_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let read = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        NamedVectors::read(&path)
    };
    for (name, text) in [
        ("a.tsv", "gene\tx\ty\nTP53\t1\t2\nEGFR\t3\t4\n"),
        ("a.csv", "TP53,1,2\nEGFR,3,4\n"),
        ("a.txt", "2 2\nTP53 1 2 \nEGFR 3 4 \n"),
        ("a.jsonl", "{\"id\": \"TP53\", \"embedding\": [1, 2]}\n{\"gene\": \"EGFR\", \"vector\": [3, 4]}\n"),
    ] {
        let found = read(name, text).expect(name);
        assert_eq!((found.names.join(" "), found.values), ("TP53 EGFR".to_owned(), vec![1.0, 2.0, 3.0, 4.0]), "{name}");
    }
    let problem = |name, text| read(name, text).expect_err("bad vectors").to_string();
    assert!(problem("b.tsv", "TP53\t1\t2\nEGFR\t3\n").contains("vector 2 (EGFR) has 1 numbers, expected 2"));
    assert!(problem("b.tsv", "TP53\t1\t2\nEGFR\t3\tx\n").contains("line 2, column 3: found 'x'"));
    assert!(problem("b.tsv", "TP53\t1\t2\nEGFR\t3\tnan\n").contains("number 2 is not finite"));
    assert!(problem("b.pickle", "").contains("must be saved as one of these"));
}
