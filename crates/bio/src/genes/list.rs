//! Gene lists as people keep them: a word a line, or a column of a table, with or without a header.

use std::path::Path;

use crate::data::table::Table;
use crate::error::{BioError, Result};

use super::resolver::{Resolved, Resolver};

/// A list as it was read.
#[derive(Debug)]
pub struct GeneList {
    /// The words, in order; an empty cell of a table is an empty word.
    pub words: Vec<String>,
    /// The header line, if the first line was taken for one.
    pub header: Option<String>,
    /// Which column was read, from 1, where there are several.
    pub column: Option<usize>,
    /// What else of the file is no word, one line each.
    pub notes: Vec<String>,
}

/// Headers that name a column of genes, in the order they are preferred.
const HEADERS: [&str; 16] = [
    "symbol",
    "gene_symbol",
    "gene symbol",
    "genesymbol",
    "hgnc_symbol",
    "gene",
    "genes",
    "gene_name",
    "gene name",
    "genename",
    "ensembl",
    "ensembl_id",
    "ensembl_gene_id",
    "entrez",
    "entrezgene",
    "gene_id",
];

/// Whether a cell reads like a header rather than a gene.
pub(crate) fn is_header(cell: &str) -> bool {
    let lower = cell.trim().to_lowercase();
    HEADERS.contains(&lower.as_str()) || ["id", "ids", "name", "geneid", "entrez_id", "hgnc"].contains(&lower.as_str())
}

impl GeneList {
    /// Reads a list.
    ///
    /// # Errors
    /// A file that is empty or is no text.
    pub fn read(path: &Path, resolver: &Resolver<'_>) -> Result<Self> {
        let table = Table::read(path)?;
        let Some((_, first)) = table.rows.first() else {
            return Err(BioError::file(path, "is empty; expected a gene a line"));
        };
        let is_gene = |cell: &String| !matches!(resolver.resolve(cell), Resolved::Unmapped(_));
        let named = HEADERS.iter().find_map(|header| first.iter().position(|cell| cell.to_lowercase() == *header));
        let lone = first.iter().any(|cell| is_header(cell)) && !first.iter().any(is_gene);
        let headed = named.is_some() || lone;
        // Without a header that says so, the column with the most genes in its first rows.
        let column = named.unwrap_or_else(|| {
            let width = table.rows.iter().take(50).map(|(_, row)| row.len()).max().unwrap_or(1);
            // A name counts twice, and wins where both count alike: a rank or a count may be an
            // Entrez id, too.
            let is_name = |cell: &&String| !cell.bytes().all(|byte| byte.is_ascii_digit());
            let genes = |column: usize| {
                let cells = table.rows.iter().take(50).filter_map(|(_, row)| row.get(column));
                let found: Vec<&String> = cells.filter(|cell| is_gene(cell)).collect();
                let names = found.iter().copied().filter(is_name).count();
                (found.len() + names, names)
            };
            (0..width).rev().max_by_key(|column| genes(*column)).unwrap_or(0)
        });
        let mut notes: Vec<String> = table.note().into_iter().collect();
        if let ([(line, row)], false) = (table.rows.as_slice(), headed)
            && row.iter().filter(|cell| is_gene(cell)).count() > 1
        {
            notes.push(format!("line {line} is the only one, and each of its {} cells is taken for a gene", row.len()));
            return Ok(Self { words: row.clone(), header: None, column: None, notes });
        }
        let body = &table.rows[usize::from(headed)..];
        let several = table.rows.iter().any(|(_, row)| row.len() > 1);
        // In a list, not a table, a second word on a line is nobody's column.
        if body.iter().filter(|(_, row)| row.len() == 1).count() * 2 > body.len() {
            for (line, row) in body.iter().filter(|(_, row)| row.len() > 1) {
                let others = row.iter().enumerate().filter(|(other, cell)| *other != column && !cell.is_empty());
                let others: Vec<&str> = others.map(|(_, cell)| cell.as_str()).collect();
                notes.push(format!("line {line}: {} left out, one gene a line", others.join(", ")));
            }
        }
        let words: Vec<String> = body.iter().map(|(_, row)| row.get(column).cloned().unwrap_or_default()).collect();
        if words.is_empty() {
            return Err(BioError::file(path, "has a header and no genes; expected a gene a line"));
        }
        Ok(Self { words, header: headed.then(|| first.join("\t")), column: several.then_some(column + 1), notes })
    }
}
