//! Embeddings of a large file in shards: files of so many texts each, which ranks share and a
//! second start completes.
//!
//! `vectors.npy` becomes `vectors-00000.npy` and so on. `vectors.shards.json` says of which run
//! they are and what each holds, and at the end how many there are; until then the ranks of a job
//! but the first keep `vectors.shards.1.json` and so on for theirs. A shard that no manifest names,
//! or that is not what it says, is written again. A shard appears whole or not at all, and holds
//! the same bytes whoever writes it and when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bft_core::Pooling;
use bft_core::device::Precision;
use bft_formats::{EmbeddingModel, sha256_file};
use bft_train::{EmbedError, EmbedOptions, EmbedReport, EmbedRow, Ranks};
use serde::{Deserialize, Serialize};

use crate::embed_output::{Embeddings, OutputKind};
use crate::error::CliError;
use crate::ranks::Job;
use crate::ui;

/// What the shards of a run have in common, and which of them are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Manifest {
    /// Version of this program.
    bft: String,
    /// SHA-256 of the input.
    input_sha256: String,
    /// Columns that stand for texts and their names.
    #[serde(default)]
    columns: Vec<String>,
    /// SHA-256 of the model's weights.
    model_sha256: String,
    /// Of its configuration and tokenizer.
    model_settings_sha256: String,
    /// SHA-256 of the adapters, as [`crate::open::adapter_sha256`] has it.
    adapter_sha256: Option<String>,
    /// Ending of the files.
    format: String,
    pooling: Pooling,
    normalize: bool,
    prompt: String,
    max_length: usize,
    truncate: bool,
    batch_rows: usize,
    batch_tokens: usize,
    precision: Precision,
    shard_rows: usize,
    /// Texts and files, once all is written.
    rows: Option<usize>,
    shards: Option<usize>,
    /// The files that are written, by name.
    written: BTreeMap<String, Written>,
}

impl Manifest {
    /// What must be equal for two starts to be of one run.
    fn settings(&self) -> Self {
        Self { rows: None, shards: None, written: BTreeMap::new(), ..self.clone() }
    }
}

/// What a shard holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Written {
    bytes: u64,
    sha256: String,
}

impl Written {
    fn of(path: &Path) -> Result<Self, CliError> {
        let bytes = std::fs::metadata(path).map_err(CliError::failed)?.len();
        Ok(Self { bytes, sha256: sha256_file(path).map_err(CliError::failed)? })
    }
}

/// Files of a finished run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Files {
    /// All of them.
    pub all: usize,
    /// Those that an earlier start had written.
    pub kept: usize,
}

/// A run whose vectors go into shards.
pub struct Run<'r> {
    /// `--output`.
    pub output: &'r Path,
    /// The format of its ending.
    pub kind: OutputKind,
    /// Texts in a shard.
    pub shard_rows: usize,
    /// How vectors are made.
    pub options: &'r EmbedOptions,
    /// SHA-256 of the input.
    pub input_sha256: &'r str,
    /// `--columns`.
    pub columns: &'r [String],
    /// The model.
    pub model: &'r EmbeddingModel,
    /// SHA-256 of the adapters, where there are any.
    pub adapter_sha256: Option<String>,
    /// How exact a GPU is.
    pub precision: Precision,
}

/// The shards of a run.
pub struct Shards<'r> {
    output: PathBuf,
    kind: OutputKind,
    manifest: Manifest,
    job: Option<&'r Job>,
}

/// Reads rows to their end and gives each its vector.
type Vectors<'v> = dyn FnMut(&mut dyn Iterator<Item = Result<EmbedRow, EmbedError>>) -> Result<(Embeddings, EmbedReport), CliError>
    + 'v;

impl<'r> Shards<'r> {
    /// Takes the output for this run, unless it is another's.
    pub fn open(run: Run<'_>, job: Option<&'r Job>) -> Result<Self, CliError> {
        let Run { output, kind, shard_rows, options, input_sha256, columns, model, adapter_sha256, precision } = run;
        let extension = output.extension().unwrap_or_default();
        // Every option by name, so that none is forgotten here.
        let EmbedOptions { batch_tokens, batch_rows, max_length, truncate, pooling, normalize, prompt } =
            options.clone();
        let manifest = Manifest {
            bft: env!("CARGO_PKG_VERSION").to_owned(),
            input_sha256: input_sha256.to_owned(),
            columns: columns.to_vec(),
            model_sha256: model.sha256().map_err(CliError::failed)?,
            model_settings_sha256: model.settings_sha256().map_err(CliError::failed)?,
            adapter_sha256,
            format: extension.to_string_lossy().into_owned(),
            pooling,
            normalize,
            prompt,
            max_length,
            truncate,
            batch_rows,
            batch_tokens,
            precision,
            shard_rows,
            rows: None,
            shards: None,
            written: BTreeMap::new(),
        };
        let mut shards = Self { output: output.to_owned(), kind, manifest, job };
        let first = job.is_none_or(|job| job.rank() == 0);
        if first {
            shards.manifest.written = shards.find()?;
        }
        if let Some(job) = job {
            let mine = serde_json::to_vec(&shards.manifest).map_err(CliError::failed)?;
            let all = job.gather(&mine);
            let all = all.iter().map(|rank| serde_json::from_slice(rank)).collect::<Result<Vec<Manifest>, _>>();
            let all = all.map_err(CliError::failed)?;
            if let Some(other) = all.iter().position(|other| other.settings() != all[0].settings()) {
                return Err(CliError::failed(format!(
                    "the model, adapter or input of rank {other} is not that of rank 0: give every rank the same files"
                )));
            }
            shards.manifest.written.clone_from(&all[0].written);
        }
        if first {
            shards.join_manifests()?;
        }
        if let Some(job) = job {
            // No rank begins one of its own before those of an earlier start are gone.
            job.gather(&[0]);
        }
        Ok(shards)
    }

    /// The shards that earlier starts of this run have written.
    fn find(&self) -> Result<BTreeMap<String, Written>, CliError> {
        let mut written = BTreeMap::new();
        let (manifests, shards) = self.there()?;
        for path in &manifests {
            let problem = |what: &str| {
                CliError::failed(format!(
                    "{} {what}: remove it and its shards, or choose another --output",
                    path.display()
                ))
            };
            let text = std::fs::read(path).map_err(|error| problem(&format!("cannot be read: {error}")))?;
            match serde_json::from_slice::<Manifest>(&text) {
                Ok(found) if found.settings() == self.manifest.settings() => written.extend(found.written),
                _ => return Err(problem("is of a run with another model, input, flags or version of bft")),
            }
        }
        match shards.first() {
            Some(shard) if manifests.is_empty() => Err(CliError::failed(format!(
                "{} is there, but no {} says of which run it is: remove it, or choose another --output",
                shard.display(),
                self.manifest_path(0).display()
            ))),
            _ => Ok(written),
        }
    }

    /// Files beside the output that are named as manifests and as shards of it.
    fn there(&self) -> Result<(Vec<PathBuf>, Vec<PathBuf>), CliError> {
        let folder = match self.output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let stem = self.output.file_stem().unwrap_or_default().to_string_lossy();
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let failed = |error| CliError::failed(format!("--output {}: {error}", folder.display()));
        let (mut manifests, mut shards) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(&*stem) else {
                continue;
            };
            let of_rank = rest.strip_prefix(".shards.").and_then(|rest| rest.strip_suffix(".json"));
            let ending = format!(".{}", self.manifest.format);
            let of_shard = rest.strip_prefix('-').and_then(|rest| rest.strip_suffix(&ending));
            if rest == ".shards.json" || of_rank.is_some_and(number) {
                manifests.push(self.output.with_file_name(&name));
            } else if of_shard.is_some_and(number) {
                shards.push(self.output.with_file_name(&name));
            }
        }
        shards.sort();
        Ok((manifests, shards))
    }

    /// The manifest that a rank keeps.
    fn manifest_path(&self, rank: usize) -> PathBuf {
        match rank {
            0 => self.output.with_extension("shards.json"),
            _ => self.output.with_extension(format!("shards.{rank}.json")),
        }
    }

    fn write_manifest(&self, rank: usize) -> Result<(), CliError> {
        let write = |out: &mut dyn std::io::Write| Ok(serde_json::to_writer_pretty(out, &self.manifest)?);
        bft_formats::write_atomic(&self.manifest_path(rank), write).map_err(CliError::failed)
    }

    /// Writes the one manifest of all ranks, and takes the others away.
    fn join_manifests(&self) -> Result<(), CliError> {
        self.write_manifest(0)?;
        let (manifests, _) = self.there()?;
        for path in manifests.iter().filter(|path| **path != self.manifest_path(0)) {
            std::fs::remove_file(path).map_err(CliError::failed)?;
        }
        Ok(())
    }

    /// File of shard `index`.
    fn path(&self, index: usize) -> PathBuf {
        let stem = self.output.file_stem().unwrap_or_default();
        let name = format!("{}-{index:05}.{}", stem.to_string_lossy(), self.manifest.format);
        self.output.with_file_name(name)
    }

    /// Writes this rank's shards of the input, but for those that are there. `read_sha256` tells
    /// the SHA-256 of what was read of the input. Returns what all ranks have done.
    pub fn write(
        mut self,
        mut rows: impl Iterator<Item = Result<EmbedRow, EmbedError>>,
        read_sha256: impl Fn() -> String,
        vectors: &mut Vectors<'_>,
    ) -> Result<(EmbedReport, Files), CliError> {
        let (rank, count) = self.job.map_or((0, 1), |job| (job.rank(), job.count()));
        let mut done = EmbedReport::default();
        let (mut texts, mut kept, mut all) = (0, 0, 0);
        loop {
            let shard: Vec<EmbedRow> =
                rows.by_ref().take(self.manifest.shard_rows).collect::<Result<_, _>>().map_err(CliError::failed)?;
            if shard.is_empty() {
                break;
            }
            texts += shard.len();
            let path = self.path(all);
            all += 1;
            if (all - 1) % count != rank {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let (Some(said), true) = (self.manifest.written.get(&name), path.exists()) {
                if Written::of(&path)? == *said {
                    kept += 1;
                    continue;
                }
                ui::warn(&format!("{} is not what its manifest says: it is written again", path.display()));
            }
            let (embeddings, report) = vectors(&mut shard.into_iter().map(Ok))?;
            embeddings.write(&path, self.kind)?;
            self.manifest.written.insert(name, Written::of(&path)?);
            self.write_manifest(rank)?;
            done.rows += report.rows;
            done.tokens += report.tokens;
            done.truncated += report.truncated;
        }
        if read_sha256() != self.manifest.input_sha256 {
            // What was written under this manifest may be of other texts than it says.
            for manifest in [self.manifest_path(0), self.manifest_path(rank)] {
                // Another rank may have removed it, or this one has none.
                let _ = std::fs::remove_file(manifest);
            }
            return Err(CliError::failed(
                "--input was changed while it was read: remove the shards, and start again when it is whole",
            ));
        }
        if let Some(job) = self.job {
            let written = serde_json::to_vec(&self.manifest.written).map_err(CliError::failed)?;
            for of_rank in job.gather(&written) {
                let written: BTreeMap<_, _> = serde_json::from_slice(&of_rank).map_err(CliError::failed)?;
                self.manifest.written.extend(written);
            }
            let mine = [done.rows, done.tokens, done.truncated, kept];
            let bytes: Vec<u8> = mine.iter().flat_map(|n| n.to_ne_bytes()).collect();
            let mut sums = [0; 4];
            for of_rank in job.gather(&bytes) {
                let (words, _) = of_rank.as_chunks();
                let numbers = words.iter().map(|word| usize::from_ne_bytes(*word));
                sums.iter_mut().zip(numbers).for_each(|(sum, n)| *sum += n);
            }
            let [rows, tokens, truncated, of_all] = sums;
            done = EmbedReport { rows, tokens, truncated };
            kept = of_all;
        }
        if rank == 0 {
            self.manifest.rows = Some(texts);
            self.manifest.shards = Some(all);
            self.join_manifests()?;
        }
        Ok((done, Files { all, kept }))
    }
}
