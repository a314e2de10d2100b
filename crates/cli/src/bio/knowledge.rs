//! What every verb of biology opens: the cache's databases, and the vectors that a table compares.

use std::path::{Path, PathBuf};

use bft_bio::data::genome::{GeneId, Genome};
use bft_bio::data::gmt::GeneSets;
use bft_bio::data::ontology::Ontology;
use bft_bio::data::response::Response;
use bft_bio::data::vectors::NamedVectors;
use bft_bio::genes::baselines::baselines;
use bft_bio::genes::encode::TextModel;
use bft_bio::genes::profile;
use bft_bio::genes::resolver::{Mapping, Resolver};
use bft_bio::genes::vectors::GeneVectors;
use bft_bio::report::Report;
use bft_bio::stats::features::Features;
use bft_bio::tasks::{Options, Task};
use bft_core::device::Device;
use bft_fetch::FetchError;
use bft_fetch::sources::Dataset;
use clap::Args;

use crate::error::CliError;
use crate::flags::{DeviceFlag, at_least};
use crate::hub;
use crate::open;
use crate::ui::{self, DIM, Progress};

/// The fetched databases.
pub struct Knowledge {
    /// Where they lie.
    pub cache: PathBuf,
    /// Genes.
    pub genome: Genome,
    /// Terms.
    pub ontology: Ontology,
}

impl Knowledge {
    /// Opens the cache.
    pub fn open() -> Result<Self, CliError> {
        let cache = bft_fetch::cache().map_err(CliError::failed)?;
        let path = |dataset: Dataset| dataset.path(&cache).map_err(CliError::failed);
        let (genes, ontology) = (path(Dataset::Genes)?, path(Dataset::Ontology)?);
        Ok(Self {
            genome: Genome::open(&genes).map_err(CliError::failed)?,
            ontology: Ontology::open(&ontology).map_err(CliError::failed)?,
            cache,
        })
    }

    /// Knock-out fitness of the fetched tables.
    pub fn fitness(&self, resolver: &Resolver<'_>) -> Result<Response, CliError> {
        let files = [Dataset::FitnessMelanoma, Dataset::FitnessLiver, Dataset::FitnessNeuroblastoma];
        let files = files.map(|dataset| self.path(dataset));
        let files = files.into_iter().collect::<Result<Vec<_>, _>>()?;
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        Response::read_fitness(&files, resolver).map_err(CliError::failed)
    }

    /// The fetched protein complexes.
    pub fn complexes(&self, resolver: &Resolver<'_>) -> Result<GeneSets, CliError> {
        GeneSets::read_complexes(&self.path(Dataset::Complexes)?, resolver).map_err(CliError::failed)
    }

    /// Folder of the fetched sentence encoder, where it was fetched.
    pub fn encoder(&self) -> Result<Option<PathBuf>, CliError> {
        match Dataset::MiniLm.path(&self.cache) {
            Ok(path) => Ok(Some(path)),
            Err(FetchError::NotFetched { .. }) => Ok(None),
            Err(error) => Err(CliError::failed(error)),
        }
    }

    /// Path of fetched data.
    pub fn path(&self, dataset: Dataset) -> Result<PathBuf, CliError> {
        dataset.path(&self.cache).map_err(CliError::failed)
    }
}

/// Whether a path is the word for fetched data, and no file of that name is there.
pub fn is_word(path: &Path, word: &str) -> bool {
    path == Path::new(word) && !path.exists()
}

/// What is taken for a gene's name.
#[derive(Debug, Clone, Args)]
pub struct NamesFlag {
    /// Take NA, NaN and the like for names (aliases of XK and SCN11A), not for missing values
    #[arg(long)]
    pub keep_na: bool,
}

/// Whose vectors a table compares, beside its baselines.
#[derive(Debug, Clone, Args)]
pub struct VectorFlags {
    /// A file of gene vectors to judge (.parquet, .npy with .tsv, .tsv, .csv, .txt, .jsonl); may be
    /// given several times
    #[arg(long, value_name = "FILE", help_heading = "Vectors")]
    pub vectors: Vec<PathBuf>,
    /// A language model whose hidden states of the gene's name are judged
    #[arg(long, value_name = "PATH", help_heading = "Vectors")]
    pub model: Option<PathBuf>,
    /// LoRA adapter of --model; its row stands beside the untuned model's
    #[arg(long, value_name = "DIR", requires = "model", help_heading = "Vectors")]
    pub adapter: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Vectors")]
    pub names: NamesFlag,
    #[command(flatten, next_help_heading = "Run")]
    pub run: DeviceFlag,
    /// Seed of splits, random vectors and intervals
    #[arg(long, value_name = "NUMBER", default_value_t = 0, help_heading = "Run")]
    pub seed: u64,
    /// Redraws for the 95 % intervals
    #[arg(long, value_name = "TIMES", default_value_t = 1000, value_parser = at_least(0), help_heading = "Run")]
    pub redraws: usize,
    /// Train on shuffled labels: a check that everything then lands at chance
    #[arg(long, help_heading = "Run")]
    pub shuffle_labels: bool,
    /// Write the table here as TSV
    #[arg(long, short = 'o', value_name = "FILE", help_heading = "Run")]
    pub output: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long, help_heading = "Run")]
    pub json: bool,
}

impl VectorFlags {
    /// Checks what can be checked before any work; gives the model's path.
    fn check(&self) -> Result<Option<PathBuf>, CliError> {
        for file in &self.vectors {
            open::readable("--vectors", file)?;
        }
        open::adapters_exist(self.adapter.as_slice())?;
        self.output.as_deref().map_or(Ok(()), |path| open::writable("--output", path))?;
        self.model.as_deref().map(|path| hub::model_path("--model", path)).transpose()
    }

    /// Baselines first, then what is judged. All that the user named is read before the first model
    /// computes.
    fn sets(
        &self,
        knowledge: &Knowledge,
        resolver: &Resolver<'_>,
        task: &impl Task,
        model: Option<&Path>,
    ) -> Result<Vec<GeneVectors>, CliError> {
        let Knowledge { genome, ontology, .. } = knowledge;
        let genes = &task.genes();
        let given = self.vectors.iter().map(|file| of_file(file, resolver, genes)).collect::<Result<Vec<_>, _>>()?;
        let models = self.models(knowledge, model)?;
        let mut sets = baselines(genome, ontology, genes, task.evidence(), self.seed).map_err(CliError::failed)?;
        let names: Vec<String> = genes.iter().map(|gene| profile::name(genome, *gene)).collect();
        if !models.is_empty() {
            let device = open::device(self.run.device())?;
            for Labelled { model, label, baseline } in models {
                let features = embedded(&device, &model, &names)?;
                sets.push(GeneVectors::new(&label, baseline, genes, features));
            }
        }
        sets.extend(given);
        Ok(sets)
    }

    /// The models whose vectors are compared.
    fn models(&self, knowledge: &Knowledge, path: Option<&Path>) -> Result<Vec<Labelled>, CliError> {
        let open = |path: &Path, adapter: Option<&Path>, label: String, baseline: bool| {
            let model = TextModel::open(path, adapter).map_err(CliError::failed)?;
            Ok::<_, CliError>(Labelled { model, label, baseline })
        };
        let mut models = Vec::new();
        match knowledge.encoder()? {
            Some(path) => models.push(open(&path, None, "MiniLM of the name".to_owned(), true)?),
            None if path.is_some() => {
                ui::note("the table has no MiniLM row: run `bft bio fetch --only encoder` for it");
            }
            None => {}
        }
        if let (Some(path), Some(given)) = (path, &self.model) {
            let name = given.file_stem().unwrap_or_default().to_string_lossy();
            models.push(open(path, None, format!("{name} hidden states of the name"), self.adapter.is_some())?);
            if let Some(adapter) = &self.adapter {
                let label = format!("{name} + {} hidden states of the name", adapter.display());
                models.push(open(path, Some(adapter), label, false)?);
            }
        }
        Ok(models)
    }

    /// Opens what was fetched, reads the data of a task, and shows its table.
    pub fn judge<T: Task>(
        &self,
        folds: usize,
        read: impl FnOnce(&Knowledge, &Resolver<'_>) -> Result<T, CliError>,
    ) -> Result<(), CliError> {
        let model = self.check()?;
        let knowledge = Knowledge::open()?;
        let resolver = Resolver::new(&knowledge.genome).keeping_na(self.names.keep_na);
        let task = read(&knowledge, &resolver)?;
        let sets = self.sets(&knowledge, &resolver, &task, model.as_deref())?;
        let options = Options { seed: self.seed, folds, redraws: self.redraws, shuffle_labels: self.shuffle_labels };
        self.show(&task.run(&knowledge.genome, &sets, options).map_err(CliError::failed)?)
    }

    /// Shows and writes a finished table.
    fn show(&self, report: &Report) -> Result<(), CliError> {
        if let Some(path) = &self.output {
            bft_formats::write_atomic(path, |out| out.write_all(report.tsv().as_bytes())).map_err(CliError::failed)?;
            ui::note(&format!("table written to {}", path.display()));
        }
        if self.json {
            return ui::json(&report.json());
        }
        for (what, value) in &report.about {
            ui::note(&format!("{DIM}{what}: {value}{DIM:#}"));
        }
        ui::result(&ui::table(&report.cells()))
    }
}

/// A model whose vectors are a row of the table.
struct Labelled {
    model: TextModel,
    label: String,
    baseline: bool,
}

/// Vectors of genes' texts by a model, with progress.
fn embedded(device: &Device, model: &TextModel, texts: &[String]) -> Result<Features, CliError> {
    let mut progress = Progress::new("embedding", "genes", texts.len() as u64, 0);
    let mut values = Vec::with_capacity(texts.len() * model.width());
    model
        .embed(device, texts, |number, vector| {
            values.extend_from_slice(vector);
            progress.at(number as u64 + 1, model.name());
        })
        .map_err(CliError::failed)?;
    progress.finish();
    Ok(Features::Dense { width: model.width(), values })
}

/// Vectors of a file for those of the genes that it has.
fn of_file(path: &Path, resolver: &Resolver<'_>, genes: &[GeneId]) -> Result<GeneVectors, CliError> {
    let named = NamedVectors::read(path).map_err(CliError::failed)?;
    let mapping = Mapping::new(resolver, named.names.iter().map(String::as_str));
    ui::note(&format!("{}: {}", path.display(), mapping.summary()));
    for (word, hint) in mapping.unmapped.iter().take(5) {
        ui::warn(&format!("{word}: unmapped{}", hint.as_ref().map_or_else(String::new, |hint| format!(": {hint}"))));
    }
    let place: std::collections::HashMap<&str, usize> =
        named.names.iter().enumerate().rev().map(|(row, name)| (name.as_str(), row)).collect();
    let wanted: std::collections::HashSet<GeneId> = genes.iter().copied().collect();
    let (mut found, mut values) = (Vec::new(), Vec::new());
    for (gene, name) in mapping.genes.iter().filter(|(gene, _)| wanted.contains(gene)) {
        let row = place.get(name.as_str()).copied().unwrap_or(0);
        found.push(*gene);
        values.extend_from_slice(&named.values[row * named.width..(row + 1) * named.width]);
    }
    if found.is_empty() {
        return Err(CliError::failed(format!(
            "--vectors {}: none of its names is a gene of this task; expected gene symbols or ids",
            path.display()
        )));
    }
    let features = Features::Dense { width: named.width, values };
    Ok(GeneVectors::new(path.display().to_string(), false, &found, features))
}
