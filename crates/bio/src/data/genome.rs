//! Human genes as org.Hs.eg knows them: symbols, names, aliases, ids, annotation, location.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::error::{BioError, Result};

/// One gene.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gene {
    /// Entrez Gene id.
    pub entrez: String,
    /// Official symbol in September 2022.
    pub symbol: String,
    /// Full name.
    pub name: String,
    /// Whether it encodes a protein.
    pub protein_coding: bool,
}

/// Index of a gene in a [`Genome`].
pub type GeneId = usize;

/// All genes with every name they go by.
#[derive(Debug)]
pub struct Genome {
    /// The genes, in the order of their row keys.
    pub genes: Vec<Gene>,
    /// Official symbol → genes.
    pub symbols: HashMap<String, Vec<GeneId>>,
    /// Alias, outdated symbols among them → genes.
    pub aliases: HashMap<String, Vec<GeneId>>,
    /// Entrez id → gene.
    pub entrez: HashMap<String, GeneId>,
    /// Ensembl gene id → genes.
    pub ensembl: HashMap<String, Vec<GeneId>>,
    keys: HashMap<i64, GeneId>,
    database: Connection,
}

/// The two kinds of GO annotation that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// Biological process.
    Process,
    /// Molecular function.
    Function,
}

impl Aspect {
    fn table(self) -> &'static str {
        match self {
            Self::Process => "go_bp",
            Self::Function => "go_mf",
        }
    }
}

/// Evidence that a person judged: from experiments, an author's statement, or a curator's
/// inference.
pub const JUDGED: [&str; 8] = ["EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "TAS", "IC"];

/// The same without what was inferred from a mutant's phenotype, of which a screen's own result may
/// be the source.
pub const NOT_BY_MUTANT: [&str; 7] = ["EXP", "IDA", "IPI", "IGI", "IEP", "TAS", "IC"];

/// One annotation of one gene.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Annotation {
    /// The gene.
    pub gene: GeneId,
    /// GO id of the term.
    pub go: String,
    /// Evidence code.
    pub evidence: String,
}

/// Opens a database of the cache for reading alone.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(|error| damaged(path, &error))
}

pub(crate) fn damaged(path: &Path, error: &rusqlite::Error) -> BioError {
    BioError::file(path, format!("cannot be read as a database ({error}); run `bft bio fetch` to get it anew"))
}

impl Genome {
    /// Reads the database.
    pub fn open(path: &Path) -> Result<Self> {
        let database = open(path)?;
        Self::read(database).map_err(|error| damaged(path, &error))
    }

    fn read(database: Connection) -> rusqlite::Result<Self> {
        let mut genes = Vec::new();
        let mut keys = HashMap::new();
        let query = "SELECT _id, gene_id, symbol, gene_name, gene_type FROM gene_info \
            JOIN genes USING (_id) LEFT JOIN genetype USING (_id) ORDER BY _id";
        each(&database, query, |row| {
            let kind: Option<String> = row.get(4)?;
            keys.insert(row.get(0)?, genes.len());
            genes.push(Gene {
                entrez: row.get(1)?,
                symbol: row.get(2)?,
                name: row.get(3)?,
                protein_coding: kind.as_deref() == Some("protein-coding"),
            });
            Ok(())
        })?;
        let mut symbols: HashMap<String, Vec<GeneId>> = HashMap::new();
        let mut entrez = HashMap::new();
        for (id, gene) in genes.iter().enumerate() {
            symbols.entry(gene.symbol.clone()).or_default().push(id);
            entrez.insert(gene.entrez.clone(), id);
        }
        let by_name = |query| {
            let mut names: HashMap<String, Vec<GeneId>> = HashMap::new();
            each(&database, query, |row| {
                if let Some(id) = keys.get(&row.get::<_, i64>(1)?) {
                    names.entry(row.get(0)?).or_default().push(*id);
                }
                Ok(())
            })?;
            Ok::<_, rusqlite::Error>(names)
        };
        Ok(Self {
            aliases: by_name("SELECT DISTINCT alias_symbol, _id FROM alias ORDER BY 1, 2")?,
            ensembl: by_name("SELECT DISTINCT ensembl_id, _id FROM ensembl ORDER BY 1, 2")?,
            genes,
            symbols,
            entrez,
            keys,
            database,
        })
    }

    fn damaged(&self, error: &rusqlite::Error) -> BioError {
        damaged(Path::new(self.database.path().unwrap_or("org.Hs.eg.sqlite")), error)
    }

    /// Direct annotations, sorted; `evidence` keeps these codes alone, all where it is empty.
    pub fn annotations(&self, aspect: Aspect, evidence: &[&str]) -> Result<Vec<Annotation>> {
        self.read_annotations(aspect.table(), evidence)
    }

    /// Annotations with those of every term's descendants, sorted.
    pub fn annotations_inherited(&self, aspect: Aspect, evidence: &[&str]) -> Result<Vec<Annotation>> {
        self.read_annotations(&format!("{}_all", aspect.table()), evidence)
    }

    fn read_annotations(&self, table: &str, evidence: &[&str]) -> Result<Vec<Annotation>> {
        let mut found = Vec::new();
        let query = format!("SELECT _id, go_id, evidence FROM {table}");
        each(&self.database, &query, |row| {
            let code: String = row.get(2)?;
            let gene = self.keys.get(&row.get::<_, i64>(0)?);
            if let Some(gene) = gene
                && (evidence.is_empty() || evidence.contains(&code.as_str()))
            {
                found.push(Annotation { gene: *gene, go: row.get(1)?, evidence: code });
            }
            Ok(())
        })
        .map_err(|error| self.damaged(&error))?;
        found.sort_unstable();
        Ok(found)
    }

    /// How many publications PubMed links to each gene, by [`GeneId`]: a gene's popularity.
    pub fn publications(&self) -> Result<Vec<u32>> {
        let mut counts = vec![0; self.genes.len()];
        let query = "SELECT _id, COUNT(DISTINCT pubmed_id) FROM pubmed GROUP BY _id";
        each(&self.database, query, |row| {
            if let Some(id) = self.keys.get(&row.get::<_, i64>(0)?) {
                counts[*id] = row.get(1)?;
            }
            Ok(())
        })
        .map_err(|error| self.damaged(&error))?;
        Ok(counts)
    }

    /// Cytogenetic locations (`17p13.1`) by gene; a gene may have two (X and Y).
    pub fn bands(&self) -> Result<HashMap<GeneId, Vec<String>>> {
        let mut bands: HashMap<GeneId, Vec<String>> = HashMap::new();
        let query = "SELECT _id, cytogenetic_location FROM cytogenetic_locations";
        each(&self.database, query, |row| {
            if let Some(id) = self.keys.get(&row.get::<_, i64>(0)?) {
                bands.entry(*id).or_default().push(row.get(1)?);
            }
            Ok(())
        })
        .map_err(|error| self.damaged(&error))?;
        Ok(bands)
    }
}

/// Calls `take` on every row of a query.
pub(crate) fn each(
    database: &Connection,
    query: &str,
    mut take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = database.prepare(query)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}
