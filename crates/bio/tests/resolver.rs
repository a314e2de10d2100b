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

    // A fetched table that was cut short.
    let path = folder.path().join("ligands.csv");
    let header = "resource,source_genesymbol,target_genesymbol\n";
    std::fs::write(&path, format!("{header}consensus,TP53,EGFR\nconsensus\nconsensus,TP53")).expect("a file");
    let pairs = Pairs::read_ligands(&path, &resolver).expect("ligands");
    assert_eq!(pairs.positives.len(), 1);
    assert!(pairs.notes[0].contains("3 consensus rows; 0 with a complex on a side and 2 with an unknown gene"));

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

#[test]
fn words_for_missing_values_are_missing_unless_the_user_says_otherwise() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let words = ["TP53", "NA", "NaN", "nan", "#N/A", "None", "-", "", "EGFR"];
    let mapped = |resolver: &Resolver<'_>| {
        let mapping = Mapping::new(resolver, words);
        let genes: Vec<&str> = mapping.genes.iter().map(|(gene, _)| genome.genes[*gene].symbol.as_str()).collect();
        (genes.join(" "), mapping)
    };
    let resolver = Resolver::new(&genome);
    let (genes, mapping) = mapped(&resolver);
    assert_eq!(genes, "TP53 EGFR");
    assert_eq!((mapping.words(), mapping.missing.len(), mapping.unmapped.len()), (9, 7, 0));
    assert!(mapping.summary().contains("9 words: 2 genes and 0 duplicates"), "{}", mapping.summary());
    assert!(mapping.summary().contains("7 missing, 0 unmapped"), "{}", mapping.summary());
    let details = mapping.details(&genome);
    assert!(details.iter().any(|row| row[0] == "NA" && row[1] == "missing" && row[3].contains("--keep-na")));
    assert!(details.iter().any(|row| row[0] == "(empty)"));

    let keeping = Resolver::new(&genome).keeping_na(true);
    let (genes, mapping) = mapped(&keeping);
    assert_eq!(genes, "TP53 XK SCN11A EGFR");
    // `nan` is SCN11A again; what no database knows stays unmapped, and an empty word is missing
    // all the same.
    assert_eq!((mapping.duplicates.len(), mapping.missing.len(), mapping.unmapped.len()), (1, 1, 3));
    assert_eq!(mapping.words(), 9);

    // In a list under a header, and as pairs.
    let path = folder.path().join("na.tsv");
    std::fs::write(&path, "symbol\tscore\nTP53\t1\nNA\t2\n\t3\nNaN\t4\n").expect("a file");
    let list = GeneList::read(&path, &resolver).expect("a list");
    let mapping = Mapping::new(&resolver, list.words.iter().map(String::as_str));
    assert_eq!((mapping.genes.len(), mapping.missing.len()), (1, 3));
    std::fs::write(&path, "TP53\tEGFR\nTP53\tNA\n").expect("a file");
    let pairs = Pairs::read(&path, &resolver).expect("pairs");
    assert_eq!(pairs.positives.len(), 1);
    let notes = pairs.notes.join("\n");
    assert!(notes.contains("1 pairs left out for a missing value") && notes.contains("line 2 (TP53, NA)"), "{notes}");
    assert_eq!(Pairs::read(&path, &keeping).expect("pairs").positives.len(), 2);
}

#[test]
fn spellings_of_documents_spreadsheets_and_programs_are_read_or_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    for (word, expected) in [
        ("\u{a0}TP53\u{a0}", "TP53"),
        ("\u{200b}TP53\u{feff}", "TP53"),
        ("TNF-α", "TNF"),
        ("HLA_DRB1", "HLA-DRB1"),
        ("HLA\u{2011}DRB1", "HLA-DRB1"),
        ("NKX2.5", "NKX2-5"),
        ("nkx2–5", "NKX2-5"),
        ("C9ORF72", "C9orf72"),
        ("PD-L1", "CD274"),
        ("HIST1H3A", "H3C1"),
        ("MARC1", "MTARC1"),
        ("2023-03-01", "MARCHF1"),
        ("2023/9/2", "SEPTIN2"),
        ("2022-12-01 00:00:00", "DELEC1"),
        ("ENSG00000141510.17_TP53", "TP53"),
        ("ENSG00000141510|P53", "TP53"),
        ("ENSG00000198888.2_PAR_Y", "ND1"),
    ] {
        assert_eq!(symbol(&resolver, word), expected, "{word}");
    }
    for (word, why) in [
        ("44621", "a date's number"),
        ("ENSG00000141510_EGFR", "two genes"),
        ("ENSGALG00000012345", "another species"),
        ("ENSRNOG00000010756", "another species"),
        ("TP53;EGFR", "several names in one"),
        ("TP53 EGFR", "several names in one"),
        ("hsa-miR-21-5p", "a microRNA's own name"),
        ("P04637", "UniProt"),
        ("A0A024R1X5", "UniProt"),
        ("GATA4.1", "give GATA4"),
        ("GATA4-1", "give GATA4"),
        ("TP53\nEGFR", "a quotation mark not closed"),
    ] {
        match resolver.resolve(word) {
            Resolved::Unmapped(Some(hint)) => assert!(hint.contains(why), "{word}: {hint}"),
            other => panic!("{word}: {other:?}"),
        }
    }
    // What was read otherwise than it stands is told.
    let mapping = Mapping::new(&resolver, ["HLA_DRB1", "ENSG00000141510.17_TP53", "ENSG00000146648.9"]);
    let doubts: Vec<String> = mapping.doubts.iter().map(|(word, _, doubt)| format!("{word}: {doubt}")).collect();
    assert_eq!(
        doubts,
        ["HLA_DRB1: read as HLA-DRB1", "ENSG00000141510.17_TP53: read as ENSG00000141510; _TP53 was not needed"]
    );
}

#[test]
fn a_list_says_what_of_its_lines_is_no_gene() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    let path = folder.path().join("genes.txt");
    let read = |text: &str| {
        std::fs::write(&path, text).expect("a file");
        GeneList::read(&path, &resolver).expect("a list")
    };
    let list = read("# from the paper\nTP53\nEGFR\tGATA4\n#N/A\nTNF\n");
    assert_eq!(list.words, ["TP53", "EGFR", "#N/A", "TNF"]);
    assert_eq!(
        list.notes,
        ["lines left out as comments, because they begin with #: 1", "line 3: GATA4 left out, one gene a line"]
    );
    let list = read("TP53, EGFR, NOSUCH\n");
    assert_eq!(list.words, ["TP53", "EGFR", "NOSUCH"]);
    assert_eq!(list.notes, ["line 1 is the only one, and each of its 3 cells is taken for a gene"]);
    // 100 and 101 are Entrez ids, and here ranks.
    let list = read("100\tEGFR\n101\tNOSUCH\n");
    assert_eq!((list.words.join(" "), list.column), ("EGFR NOSUCH".to_owned(), Some(2)));
}

#[test]
fn gene_sets_of_one_name_and_comments_are_noted() {
    let folder = tempfile::tempdir().expect("a folder");
    let genome = common::genome(folder.path());
    let resolver = Resolver::new(&genome);
    let path = folder.path().join("sets.gmt");
    let text = "# made by hand\nDEATH\tabout\tTP53\tNA\tTNF\r\nLIFE\tabout\tEGFR\tHER1\r\nDEATH\tabout\tGATA4\n";
    std::fs::write(&path, text).expect("a file");
    let sets = GeneSets::read_gmt(&path, &resolver).expect("sets");
    let found: Vec<(&str, usize)> = sets.sets.iter().map(|set| (set.name.as_str(), set.genes.len())).collect();
    assert_eq!(found, [("DEATH", 2), ("LIFE", 1), ("DEATH", 1)]);
    assert_eq!(
        sets.notes,
        [
            "line 1 begins with # and is left out as a comment",
            "line 2, DEATH: missing values left out: NA",
            "line 3, LIFE: of genes that are there already: HER1",
            "line 4, DEATH: a set of this name stands on line 2, too; each is taken as a set of its own",
        ]
    );
}
