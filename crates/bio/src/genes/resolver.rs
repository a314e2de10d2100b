//! Whatever a biologist calls a gene → the gene: symbols, aliases, outdated symbols, Ensembl and Entrez ids.

use std::collections::{BTreeMap, HashMap};

use crate::data::genome::{GeneId, Genome};

use super::excel;

/// How a word was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// The official symbol as it stands.
    Symbol,
    /// The official symbol in other case.
    Case,
    /// An alias or outdated symbol.
    Alias,
    /// An Ensembl gene id.
    Ensembl,
    /// An Entrez Gene id.
    Entrez,
    /// A date that a spreadsheet made of a symbol.
    Excel,
}

impl How {
    /// In words, as tables show it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Symbol => "symbol",
            Self::Case => "symbol in other case",
            Self::Alias => "alias",
            Self::Ensembl => "Ensembl id",
            Self::Entrez => "Entrez id",
            Self::Excel => "date made by a spreadsheet",
        }
    }
}

/// What became of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// One gene.
    Mapped {
        /// It.
        gene: GeneId,
        /// How it was found.
        how: How,
        /// What else the word could have meant, in words.
        doubt: Option<String>,
    },
    /// Several genes; none is taken.
    Ambiguous(Vec<GeneId>),
    /// No gene, with a hint where there is one.
    Unmapped(Option<String>),
}

/// Finds genes by any name.
#[derive(Debug)]
pub struct Resolver<'g> {
    genome: &'g Genome,
    /// Upper-case symbol and alias → genes, for words in other case.
    upper_symbols: HashMap<String, Vec<GeneId>>,
    upper_aliases: HashMap<String, Vec<GeneId>>,
}

impl<'g> Resolver<'g> {
    /// A resolver over all genes.
    pub fn new(genome: &'g Genome) -> Self {
        let upper = |names: &HashMap<String, Vec<GeneId>>| {
            let mut by_upper: HashMap<String, Vec<GeneId>> = HashMap::new();
            for (name, ids) in names {
                by_upper.entry(name.to_uppercase()).or_default().extend(ids);
            }
            for ids in by_upper.values_mut() {
                ids.sort_unstable();
                ids.dedup();
            }
            by_upper
        };
        Self { upper_symbols: upper(&genome.symbols), upper_aliases: upper(&genome.aliases), genome }
    }

    /// The genes.
    pub fn genome(&self) -> &'g Genome {
        self.genome
    }

    /// The gene that a word surely means.
    pub fn gene(&self, word: &str) -> Option<GeneId> {
        match self.resolve(word) {
            Resolved::Mapped { gene, .. } => Some(gene),
            Resolved::Ambiguous(_) | Resolved::Unmapped(_) => None,
        }
    }

    /// What a word means, and how that is known.
    pub fn resolve(&self, word: &str) -> Resolved {
        let word = clean(word);
        let upper = word.to_uppercase();
        if let Some(found) = self.genome.symbols.get(word) {
            return self.pick(found, How::Symbol);
        }
        if upper.starts_with("ENSG") {
            // ENSG00000141510.17 carries a version.
            let id = upper.split('.').next().unwrap_or(&upper);
            return match self.genome.ensembl.get(id) {
                Some(found) => self.pick(found, How::Ensembl),
                None => Resolved::Unmapped(Some("no such Ensembl id in this release".to_owned())),
            };
        }
        if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
            let found = self.genome.entrez.get(word.trim_start_matches('0'));
            return match found {
                Some(gene) => mapped(*gene, How::Entrez),
                None => Resolved::Unmapped(Some("no such Entrez id in this release".to_owned())),
            };
        }
        if let Some((symbol, other)) = excel::repair(word)
            && let Some([gene]) = self.genome.symbols.get(&symbol).map(Vec::as_slice)
        {
            let doubt = other.map(|other| format!("{word} may also have been {other}"));
            return Resolved::Mapped { gene: *gene, how: How::Excel, doubt };
        }
        if let Some(symbol) = excel::renamed(&upper)
            && let Some([gene]) = self.genome.symbols.get(&symbol).map(Vec::as_slice)
        {
            return mapped(*gene, How::Alias);
        }
        // HGNC writes MT-ND1 what NCBI calls ND1, alias MTND1.
        let mitochondrial = upper.strip_prefix("MT-").map(|rest| format!("MT{rest}"));
        let alias = mitochondrial.as_deref().unwrap_or(word);
        if let Some(found) = self.genome.aliases.get(alias) {
            return self.pick(found, How::Alias);
        }
        if let Some(found) = self.upper_symbols.get(&upper) {
            return self.pick(found, How::Case);
        }
        if let Some(found) = self.upper_aliases.get(&upper) {
            return self.pick(found, How::Alias);
        }
        Resolved::Unmapped(hint(word, &upper))
    }

    /// One gene of several: the only one, or the only one that encodes a protein.
    fn pick(&self, found: &[GeneId], how: How) -> Resolved {
        if let [gene] = found {
            return mapped(*gene, how);
        }
        let coding: Vec<GeneId> =
            found.iter().copied().filter(|gene| self.genome.genes[*gene].protein_coding).collect();
        let [gene] = coding.as_slice() else {
            return Resolved::Ambiguous(found.to_vec());
        };
        let others: Vec<&str> = found
            .iter()
            .filter(|other| *other != gene)
            .map(|other| self.genome.genes[*other].symbol.as_str())
            .collect();
        Resolved::Mapped {
            gene: *gene,
            how,
            doubt: Some(format!("also names {}, without a protein", others.join(", "))),
        }
    }
}

fn mapped(gene: GeneId, how: How) -> Resolved {
    Resolved::Mapped { gene, how, doubt: None }
}

fn clean(word: &str) -> &str {
    word.trim().trim_matches(|c: char| c == '"' || c == '\'' || c == '\u{feff}' || c.is_whitespace())
}

fn hint(word: &str, upper: &str) -> Option<String> {
    if excel::is_mangled_number(word) {
        return Some("a number made by a spreadsheet; take the name from the source".to_owned());
    }
    if upper.starts_with("ENSMUS") {
        return Some("a mouse id; only human genes are known".to_owned());
    }
    if ["ENST", "ENSP"].iter().any(|kind| upper.starts_with(kind)) {
        return Some("a transcript or protein id; give the gene's id (ENSG...)".to_owned());
    }
    None
}

/// What became of a whole list.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    /// Genes in the order they first came, each with the word it came by.
    pub genes: Vec<(GeneId, String)>,
    /// Mapped words by how.
    pub how: BTreeMap<How, usize>,
    /// Words that named a gene already there, with that gene.
    pub duplicates: Vec<(String, GeneId)>,
    /// Words that may mean several genes.
    pub ambiguous: Vec<(String, Vec<GeneId>)>,
    /// Words that mean none, with a hint.
    pub unmapped: Vec<(String, Option<String>)>,
    /// Mapped words that could have meant something else.
    pub doubts: Vec<(String, GeneId, String)>,
}

impl Mapping {
    /// Resolves every word.
    pub fn new<'w>(resolver: &Resolver<'_>, words: impl IntoIterator<Item = &'w str>) -> Self {
        let mut mapping = Self::default();
        let mut seen = std::collections::HashSet::new();
        for word in words {
            match resolver.resolve(word) {
                Resolved::Mapped { gene, how, doubt } => {
                    *mapping.how.entry(how).or_default() += 1;
                    if let Some(doubt) = doubt {
                        mapping.doubts.push((word.to_owned(), gene, doubt));
                    }
                    if seen.insert(gene) {
                        mapping.genes.push((gene, word.to_owned()));
                    } else {
                        mapping.duplicates.push((word.to_owned(), gene));
                    }
                }
                Resolved::Ambiguous(genes) => mapping.ambiguous.push((word.to_owned(), genes)),
                Resolved::Unmapped(hint) => mapping.unmapped.push((word.to_owned(), hint)),
            }
        }
        mapping
    }

    /// Words looked at.
    pub fn words(&self) -> usize {
        self.genes.len() + self.duplicates.len() + self.ambiguous.len() + self.unmapped.len()
    }

    /// The counts in a line.
    pub fn summary(&self) -> String {
        let how: Vec<String> = self.how.iter().map(|(how, count)| format!("{count} by {}", how.words())).collect();
        format!(
            "{} words: {} genes ({}), {} duplicates, {} ambiguous, {} unmapped",
            self.words(),
            self.genes.len(),
            how.join(", "),
            self.duplicates.len(),
            self.ambiguous.len(),
            self.unmapped.len()
        )
    }

    /// One row for every word that did not simply become a gene of its own: word, what became of it, which, why.
    pub fn details(&self, genome: &Genome) -> Vec<[String; 4]> {
        let symbol = |gene: &GeneId| genome.genes[*gene].symbol.clone();
        let mut rows = Vec::new();
        for (word, hint) in &self.unmapped {
            rows.push([word, "unmapped", "", hint.as_deref().unwrap_or("")].map(str::to_owned));
        }
        for (word, genes) in &self.ambiguous {
            let all: Vec<String> = genes.iter().map(symbol).collect();
            rows.push([word.clone(), "ambiguous".into(), all.join(" or "), "name one".into()]);
        }
        for (word, gene, doubt) in &self.doubts {
            rows.push([word.clone(), "mapped".into(), symbol(gene), doubt.clone()]);
        }
        for (word, gene) in &self.duplicates {
            rows.push([word.clone(), "duplicate".into(), symbol(gene), "kept once".into()]);
        }
        rows
    }
}
