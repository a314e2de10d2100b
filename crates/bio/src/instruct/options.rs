//! What is asked for and what was written; the split, which is a matter of hashes alone.

use sha2::{Digest, Sha256};

/// Kinds of facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Symbol → full name.
    Name,
    /// Alias → official symbol.
    Alias,
    /// Gene → biological process.
    Process,
    /// Gene → molecular function.
    Function,
    /// Term → definition.
    Definition,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 5] = [Self::Name, Self::Alias, Self::Process, Self::Function, Self::Definition];

    /// As flags and tables write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Alias => "alias",
            Self::Process => "process",
            Self::Function => "function",
            Self::Definition => "definition",
        }
    }
}

/// What is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Part of every hash that picks a phrasing, an order or a split.
    pub seed: u64,
    /// Kinds of facts.
    pub kinds: Vec<Kind>,
    /// Facts of one kind about one gene, at most.
    pub per_gene: usize,
    /// Training phrasings of one fact.
    pub phrasings: usize,
    /// Evidence codes that an annotation must have one of.
    pub evidence: Vec<String>,
    /// These genes alone; all protein-coding genes where it is empty.
    pub genes: Vec<usize>,
    /// Facts kept for training, for validation and held out, at most, drawn by hash; 0 keeps all.
    pub most: [usize; 3],
}

/// Which side of the split a subject is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Trained on.
    Train,
    /// Looked at while training.
    Validation,
    /// Never seen.
    Test,
}

impl Side {
    /// As facts.tsv writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// A number that depends on the seed and on these words alone.
pub(crate) fn hash(seed: u64, words: &[&str]) -> u64 {
    let digest = Sha256::digest(format!("{seed}|{}", words.join("|")));
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The side of a gene or term: 8 in 10 are trained, 1 is for validation, 1 held out.
pub fn side(seed: u64, subject: &str) -> Side {
    match hash(seed, &["split", subject]) % 10 {
        0 => Side::Test,
        1 => Side::Validation,
        _ => Side::Train,
    }
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// File and rows, in order.
    pub files: Vec<(&'static str, usize)>,
    /// Facts by kind and side: training, validation, held out.
    pub facts: Vec<(Kind, [usize; 3])>,
}
