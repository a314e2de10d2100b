//! Whatever a biologist calls a gene → the gene: symbols, aliases, outdated symbols, Ensembl and
//! Entrez ids.

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
    /// A name with a Greek letter, a long dash, a dot or an underscore in the place of what
    /// databases write.
    Respelled,
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
            Self::Respelled => "name in other spelling",
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
    keep_na: bool,
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
        Self { upper_symbols: upper(&genome.symbols), upper_aliases: upper(&genome.aliases), genome, keep_na: false }
    }

    /// Takes `NA`, `NaN` and the like for names: they are aliases of XK and SCN11A.
    pub fn keeping_na(self, keep_na: bool) -> Self {
        Self { keep_na, ..self }
    }

    /// Whether a word says that there is no value; an empty one always does.
    pub fn is_missing(&self, word: &str) -> bool {
        let word = clean(word);
        word.is_empty() || (!self.keep_na && says_missing(word))
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
        if self.is_missing(word) {
            return Resolved::Unmapped(Some(MISSING.to_owned()));
        }
        let upper = word.to_uppercase();
        if let Some(found) = self.genome.symbols.get(word) {
            return self.pick(found, How::Symbol);
        }
        let digits = upper.strip_prefix("ENSG").map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        if digits > 0 {
            return self.ensembl(upper.split_at("ENSG".len() + digits));
        }
        if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
            let found = self.genome.entrez.get(word.trim_start_matches('0'));
            return match found {
                Some(gene) => mapped(*gene, How::Entrez),
                None if excel::is_serial(word) => Resolved::Unmapped(Some(
                    "no such Entrez id in this release; where a spreadsheet made a date's number of it, take the name from the source"
                        .to_owned(),
                )),
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
        self.respelled(&upper).unwrap_or_else(|| Resolved::Unmapped(self.hint(word, &upper)))
    }

    /// An Ensembl id, and what stands behind it: nothing, a version, or the gene's name.
    fn ensembl(&self, (id, rest): (&str, &str)) -> Resolved {
        let unmapped = |hint: &str| Resolved::Unmapped(Some(hint.to_owned()));
        let Some(found) = self.genome.ensembl.get(id) else {
            return unmapped("no such Ensembl id in this release");
        };
        let rest = rest.strip_prefix('.').map_or(rest, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        let resolved = self.pick(found, How::Ensembl);
        // The copy of a gene that X and Y share, as GENCODE writes it.
        if rest.is_empty() || rest == "_PAR_Y" {
            return resolved;
        }
        let name = rest.trim_start_matches(|c: char| !c.is_alphanumeric());
        match (self.gene(name), resolved) {
            (Some(other), _) if !found.contains(&other) => {
                unmapped("its Ensembl id and its name are two genes; give one of them")
            }
            (_, Resolved::Mapped { gene, how, .. }) => {
                Resolved::Mapped { gene, how, doubt: Some(format!("read as {id}; {rest} was not needed")) }
            }
            (_, other) => other,
        }
    }

    /// A name that only spelling keeps from being known.
    fn respelled(&self, upper: &str) -> Option<Resolved> {
        let mut spelled = String::with_capacity(upper.len());
        for letter in upper.chars() {
            match letter {
                'Α' => spelled.push_str("ALPHA"),
                'Β' => spelled.push_str("BETA"),
                'Γ' => spelled.push_str("GAMMA"),
                'Δ' => spelled.push_str("DELTA"),
                'Ε' => spelled.push_str("EPSILON"),
                'Κ' => spelled.push_str("KAPPA"),
                'Λ' => spelled.push_str("LAMBDA"),
                // Hyphens, dashes and the minus sign of documents; what R and file names make of a
                // hyphen.
                '\u{2010}'..='\u{2015}' | '\u{2212}' | '_' | '.' => spelled.push('-'),
                other => spelled.push(other),
            }
        }
        if spelled == upper {
            return None;
        }
        let found = self.upper_symbols.get(&spelled).or_else(|| self.upper_aliases.get(&spelled))?;
        Some(match self.pick(found, How::Respelled) {
            Resolved::Mapped { gene, how, .. } => {
                Resolved::Mapped { gene, how, doubt: Some(format!("read as {spelled}")) }
            }
            other => other,
        })
    }

    /// Why a word is no gene's name, where that can be told.
    fn hint(&self, word: &str, upper: &str) -> Option<String> {
        let says = |hint: &str| Some(hint.to_owned());
        if excel::is_mangled_number(word) {
            return says("a number made by a spreadsheet; take the name from the source");
        }
        if upper.starts_with("ENSMUS") {
            return says("a mouse id; only human genes are known");
        }
        if ["ENST", "ENSP"].iter().any(|kind| upper.starts_with(kind)) {
            return says("a transcript or protein id; give the gene's id (ENSG...)");
        }
        if upper.starts_with("ENS") && upper.ends_with(|c: char| c.is_ascii_digit()) && upper.len() > 14 {
            return says("an Ensembl id of another species; only human genes are known");
        }
        if word.contains('\n') {
            return says("a cell of several lines; is a quotation mark not closed?");
        }
        let parts: Vec<&str> = word.split([';', ',', '|', '/', ' ', '\t']).filter(|part| !part.is_empty()).collect();
        if parts.len() > 1 && parts.iter().filter(|part| self.gene(part).is_some()).count() > 1 {
            return says("several names in one; give one gene a line");
        }
        if upper.contains("-MIR-") || upper.contains("-LET-") {
            return says("a microRNA's own name; give its gene (MIR21)");
        }
        if is_uniprot(upper) {
            return says("a UniProt accession, it seems; give the gene");
        }
        // R's make.unique writes NAME.1, anndata's NAME-1.
        let (name, number) = word.rsplit_once(['.', '-'])?;
        let counted = !number.is_empty() && number.len() <= 2 && number.bytes().all(|byte| byte.is_ascii_digit());
        (counted && self.gene(name).is_some())
            .then(|| format!("a repeat of {name}, it seems, numbered by a program; give {name}"))
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

/// Strips quotation marks, spaces of every kind, and the marks without a width that come with
/// copied text.
fn clean(word: &str) -> &str {
    word.trim_matches(|c: char| {
        matches!(c, '"' | '\'' | '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{ad}') || c.is_whitespace()
    })
}

/// Why a missing value is no gene.
const MISSING: &str = "a missing value; --keep-na takes NA, NaN and the like for names";

/// Whether a word is one that R, pandas, spreadsheets and people write for a missing value.
pub(crate) fn says_missing(word: &str) -> bool {
    const WORDS: [&str; 25] = [
        "na", "n/a", "n.a.", "<na>", "#na", "#n/a", "#n/a n/a", "nan", "-nan", "1.#ind", "-1.#ind", "1.#qnan",
        "-1.#qnan", "null", "none", "-", "--", "---", ".", "?", "#ref!", "#value!", "#name?", "#num!", "#div/0!",
    ];
    WORDS.contains(&word.to_lowercase().as_str())
}

/// Whether a word is written as UniProt's accessions are: P04637, A0A024R1X5.
fn is_uniprot(upper: &str) -> bool {
    let bytes = upper.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let letter = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_uppercase);
    let all = bytes.iter().all(u8::is_ascii_alphanumeric);
    all && letter(0)
        && digit(1)
        && digit(5)
        && match bytes.len() {
            6 => true,
            10 => letter(2) && letter(6) && digit(9),
            _ => false,
        }
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
    /// Words that say that there is no value.
    pub missing: Vec<String>,
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
            if resolver.is_missing(word) {
                mapping.missing.push(word.to_owned());
                continue;
            }
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
        self.genes.len() + self.duplicates.len() + self.ambiguous.len() + self.missing.len() + self.unmapped.len()
    }

    /// The counts in a line.
    pub fn summary(&self) -> String {
        let how: Vec<String> = self.how.iter().map(|(how, count)| format!("{count} by {}", how.words())).collect();
        format!(
            "{} words: {} genes and {} duplicates of them{}, {} ambiguous, {} missing, {} unmapped",
            self.words(),
            self.genes.len(),
            self.duplicates.len(),
            if how.is_empty() { String::new() } else { format!(" ({})", how.join(", ")) },
            self.ambiguous.len(),
            self.missing.len(),
            self.unmapped.len()
        )
    }

    /// One row for every word that did not simply become a gene of its own: word, what became of
    /// it, which, why.
    pub fn details(&self, genome: &Genome) -> Vec<[String; 4]> {
        let symbol = |gene: &GeneId| genome.genes[*gene].symbol.clone();
        let mut rows = Vec::new();
        for word in &self.missing {
            let shown = if clean(word).is_empty() { "(empty)" } else { word };
            rows.push([shown, "missing", "", MISSING].map(str::to_owned));
        }
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
