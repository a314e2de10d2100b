//! Gene Ontology terms, their definitions, and which lies under which.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::genome::{damaged, each, open};
use crate::error::Result;

/// One term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Its id, such as GO:0006915.
    pub go: String,
    /// Its name.
    pub name: String,
    /// Its definition.
    pub definition: String,
    /// BP, MF or CC.
    pub ontology: String,
}

/// All terms.
#[derive(Debug)]
pub struct Ontology {
    /// Terms in the order of their ids.
    pub terms: Vec<Term>,
    by_id: HashMap<String, usize>,
    /// Parents and children of biological processes, by index.
    parents: Vec<Vec<usize>>,
    children: Vec<Vec<usize>>,
}

/// The root of biological processes.
pub const BIOLOGICAL_PROCESS: &str = "GO:0008150";

impl Ontology {
    /// Reads the database.
    pub fn open(path: &Path) -> Result<Self> {
        let database = open(path)?;
        let read = || {
            let (mut terms, mut keys) = (Vec::new(), HashMap::new());
            let query = "SELECT _id, go_id, term, definition, ontology FROM go_term \
                WHERE ontology IN ('BP', 'MF', 'CC') ORDER BY go_id";
            each(&database, query, |row| {
                keys.insert(row.get::<_, i64>(0)?, terms.len());
                terms.push(Term {
                    go: row.get(1)?,
                    name: row.get(2)?,
                    definition: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
                    ontology: row.get(4)?,
                });
                Ok(())
            })?;
            let mut parents = vec![Vec::new(); terms.len()];
            let mut children = parents.clone();
            each(&database, "SELECT _id, _parent_id FROM go_bp_parents", |row| {
                let ends = (keys.get(&row.get(0)?), keys.get(&row.get(1)?));
                if let (Some(child), Some(parent)) = ends {
                    parents[*child].push(*parent);
                    children[*parent].push(*child);
                }
                Ok(())
            })?;
            Ok((terms, parents, children))
        };
        let (terms, parents, children): (Vec<Term>, _, _) = read().map_err(|error| damaged(path, &error))?;
        let by_id = terms.iter().enumerate().map(|(i, term)| (term.go.clone(), i));
        Ok(Self { by_id: by_id.collect(), terms, parents, children })
    }

    /// The term of an id.
    pub fn term(&self, go: &str) -> Option<&Term> {
        self.by_id.get(go).map(|index| &self.terms[*index])
    }

    /// A biological process with everything above and below it.
    pub fn family(&self, go: &str) -> HashSet<&str> {
        let mut found = HashSet::new();
        for edges in [&self.parents, &self.children] {
            let mut open: Vec<usize> = self.by_id.get(go).copied().into_iter().collect();
            let mut seen = HashSet::new();
            while let Some(at) = open.pop() {
                if seen.insert(at) {
                    found.insert(self.terms[at].go.as_str());
                    open.extend(&edges[at]);
                }
            }
        }
        found
    }

    /// The branches of a biological process: its ancestors just below the root.
    pub fn branches(&self, go: &str) -> Vec<&str> {
        let (Some(start), Some(root)) = (self.by_id.get(go), self.by_id.get(BIOLOGICAL_PROCESS)) else {
            return Vec::new();
        };
        let (mut seen, mut open, mut branches) = (HashSet::new(), vec![*start], Vec::new());
        while let Some(at) = open.pop() {
            if !seen.insert(at) {
                continue;
            }
            if self.parents[at].contains(root) {
                branches.push(self.terms[at].go.as_str());
            }
            open.extend(&self.parents[at]);
        }
        branches.sort_unstable();
        branches
    }
}
