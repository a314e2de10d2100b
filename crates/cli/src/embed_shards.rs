//! Embeddings of a large file in shards: files of so many texts each, which ranks share and a second start completes.
//!
//! `vectors.npy` becomes `vectors-00000.npy` and so on. `vectors.shards.json` says of which run they are and, at the end,
//! how many. A shard appears whole or not at all, and holds the same bytes whoever writes it and when.

use std::path::PathBuf;

use bft_formats::{Adapter, EmbeddingModel, sha256_file};
use bft_train::{EmbedError, EmbedOptions, EmbedReport, EmbedRow, Ranks};
use serde::{Deserialize, Serialize};

use crate::embed::EmbedFlags;
use crate::embed_output::{Embeddings, OutputKind};
use crate::error::CliError;
use crate::ranks::Job;

/// What the shards of a run have in common.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    /// SHA-256 of the input.
    input_sha256: String,
    /// SHA-256 of the model's weights.
    model_sha256: String,
    /// SHA-256 of the adapter, as [`Adapter::sha256`] has it.
    adapter_sha256: Option<String>,
    /// Ending of the files.
    format: String,
    pooling: String,
    normalize: bool,
    max_length: usize,
    truncate: bool,
    batch_rows: usize,
    batch_tokens: usize,
    shard_rows: usize,
    /// Texts and files, once all is written.
    rows: Option<usize>,
    shards: Option<usize>,
}

/// Files of a finished run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Files {
    /// All of them.
    pub all: usize,
    /// Those that an earlier start had written.
    pub kept: usize,
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
    pub fn open(
        flags: &EmbedFlags,
        kind: OutputKind,
        shard_rows: usize,
        options: &EmbedOptions,
        model: &EmbeddingModel,
        job: Option<&'r Job>,
    ) -> Result<Self, CliError> {
        let extension = flags.output.extension().unwrap_or_default();
        let manifest = Manifest {
            input_sha256: sha256_file(&flags.input).map_err(CliError::failed)?,
            model_sha256: model.sha256().map_err(CliError::failed)?,
            adapter_sha256: flags.adapter.as_deref().map(Adapter::sha256).transpose().map_err(CliError::failed)?,
            format: extension.to_string_lossy().into_owned(),
            pooling: format!("{:?}", options.pooling).to_lowercase(),
            normalize: options.normalize,
            max_length: options.max_length,
            truncate: options.truncate,
            batch_rows: options.batch_rows,
            batch_tokens: options.batch_tokens,
            shard_rows,
            rows: None,
            shards: None,
        };
        let shards = Self { output: flags.output.clone(), kind, manifest, job };
        shards.check()?;
        if let Some(job) = job {
            let mine = serde_json::to_vec(&shards.manifest).map_err(CliError::failed)?;
            let all = job.gather(&mine);
            if let Some(other) = all.iter().position(|other| *other != all[0]) {
                return Err(CliError::failed(format!(
                    "the model, adapter or input of rank {other} is not that of rank 0: give every rank the same files"
                )));
            }
        }
        if job.is_none_or(|job| job.rank() == 0) {
            shards.write_manifest()?;
        }
        Ok(shards)
    }

    /// Whether an earlier start of this run, or none, has begun to write.
    fn check(&self) -> Result<(), CliError> {
        let path = self.manifest_path();
        let Ok(text) = std::fs::read(&path) else {
            return Ok(());
        };
        let found =
            serde_json::from_slice::<Manifest>(&text).map(|found| Manifest { rows: None, shards: None, ..found });
        match found {
            Ok(found) if found == self.manifest => Ok(()),
            _ => Err(CliError::failed(format!(
                "{} is of a run with another model, input or flags: remove it and its shards, or choose another --output",
                path.display()
            ))),
        }
    }

    fn manifest_path(&self) -> PathBuf {
        self.output.with_extension("shards.json")
    }

    fn write_manifest(&self) -> Result<(), CliError> {
        bft_formats::write_atomic(&self.manifest_path(), |out| Ok(serde_json::to_writer_pretty(out, &self.manifest)?))
            .map_err(CliError::failed)
    }

    /// File of shard `index`.
    fn path(&self, index: usize) -> PathBuf {
        let stem = self.output.file_stem().unwrap_or_default();
        let name = format!("{}-{index:05}.{}", stem.to_string_lossy(), self.manifest.format);
        self.output.with_file_name(name)
    }

    /// Writes this rank's shards of the input, but for those that are there. Returns what all ranks have done.
    pub fn write(
        mut self,
        mut rows: impl Iterator<Item = Result<EmbedRow, EmbedError>>,
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
            if path.exists() {
                kept += 1;
                continue;
            }
            let (embeddings, report) = vectors(&mut shard.into_iter().map(Ok))?;
            embeddings.write(&path, self.kind)?;
            done.rows += report.rows;
            done.tokens += report.tokens;
            done.truncated += report.truncated;
        }
        if let Some(job) = self.job {
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
            self.write_manifest()?;
        }
        Ok((done, Files { all, kept }))
    }
}
