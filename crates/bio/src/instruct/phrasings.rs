//! Questions of each kind of fact, those for testing apart.

use super::options::Kind;

/// Ways to ask; `{}` stands for the gene, alias or term.
#[derive(Debug, Clone, Copy)]
pub struct Phrasing {
    /// Asked in training.
    pub train: &'static [&'static str],
    /// Asked in validation and tests alone.
    pub test: &'static [&'static str],
}

impl Phrasing {
    /// Of a kind of fact.
    pub fn of(kind: Kind) -> Self {
        let (train, test): (&[&str], &[&str]) = match kind {
            Kind::Name => (
                &[
                    "What is the full name of the gene {}?",
                    "Give the full name of {}.",
                    "Which name does the gene symbol {} stand for?",
                    "Tell me the name of the human gene {}.",
                ],
                &["Which full name is abbreviated as {}?", "Write out the name behind the symbol {}."],
            ),
            Kind::Alias => (
                &[
                    "Which official symbol belongs to the gene alias {}?",
                    "What is the current symbol of the gene once called {}?",
                    "{} is an alias of which human gene?",
                    "Give the approved gene symbol for {}.",
                ],
                &[
                    "Under which symbol is {} listed today?",
                    "A paper mentions the gene {}. What is its official symbol?",
                ],
            ),
            Kind::Process => (
                &[
                    "Name a biological process of {}.",
                    "Which biological process does the gene {} take part in?",
                    "What process involves the {} gene product?",
                    "Give one Gene Ontology process of {}.",
                ],
                &["Tell me a process in which {} plays a role.", "Which process would the Gene Ontology list for {}?"],
            ),
            Kind::Function => (
                &[
                    "What is a molecular function of {}?",
                    "Name a molecular function of the {} gene product.",
                    "Which molecular function does the gene {} have?",
                    "Give one Gene Ontology function of {}.",
                ],
                &[
                    "At the molecular level, what function does {} serve?",
                    "Which function would the Gene Ontology list for {}?",
                ],
            ),
            Kind::Definition => (
                &[
                    "Define the biological term \"{}\".",
                    "What does the Gene Ontology term \"{}\" mean?",
                    "Explain \"{}\" as the Gene Ontology does.",
                ],
                &["In biology, what is meant by \"{}\"?", "How would you describe \"{}\" in a sentence?"],
            ),
        };
        Self { train, test }
    }
}
