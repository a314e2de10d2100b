//! Where a loss helps: arms under several regimes, with the one comparison of each written down
//! before anything runs.
//!
//! | what | module |
//! |---|---|
//! | the arms | `arms` |
//! | the regimes, and what each is for | `regimes` |
//! | how large all of it is | `presets` |
//! | what is learnt | `material`, `leaks` |
//! | what is measured of a run | `measure` |
//! | tables, pictures and the page | `compare`, `figures`, `page` |
//!
//! Every run keeps its numbers in its own folder, so that a study goes on with the runs that are
//! left, a regime at a time where that is asked for.

mod arms;
mod compare;
mod figures;
mod leaks;
mod material;
mod measure;
mod page;
mod presets;
mod regimes;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use bft_core::device::Device;
use bft_formats::{Adapter, Model};
use bft_train::{Event, TrainConfig, Trainer};

use crate::data::genome::Genome;
use crate::data::ontology::Ontology;
use crate::error::{BioError, Result, read_text};
use crate::genes::partial::key;
use crate::instruct::{Side, row};

pub use arms::{ARMS, Arm};
pub use compare::{Found, Summary};
pub use leaks::check;
pub use material::Item;
pub use measure::{MEASURES, Measure, Measured, Part, Unit};
pub use presets::{GPU, NIGHT, Preset, SMALL, TINY};
pub use regimes::{BUDGET, Level, Material, Primary, REGIMES, Regime};

use arms::Given;
use material::Pool;
use measure::Tests;

/// What a study works on.
pub struct Study<'s> {
    /// The model's file or folder.
    pub model_path: PathBuf,
    /// The model.
    pub model: &'s Model,
    /// The device.
    pub device: &'s Device,
    /// Genes.
    pub genome: &'s Genome,
    /// Terms.
    pub ontology: &'s Ontology,
    /// English text, packed with gzip.
    pub english: &'s Path,
    /// Folder of comparisons, runs and report.
    pub folder: PathBuf,
    /// Its size.
    pub preset: Preset,
}

/// What a study has to say while it works.
#[derive(Debug)]
pub enum Progress {
    /// A run begins: its number from 1, of how many, its name.
    Run(usize, usize, String),
    /// It was done before.
    Kept,
    /// A training step: done, of how many.
    Step(u64, u64),
    /// It is done, with these numbers.
    Done(String),
    /// A check, or what became of one.
    Said(String),
}

/// Ends the study where `stop` is set.
fn go_on(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(BioError::Stopped) } else { Ok(()) }
}

/// Learning rate of the warm start.
const WARM_RATE: f64 = 1e-3;

/// One run of a regime.
#[derive(Debug, Clone)]
struct Run {
    regime: &'static Regime,
    level: Level,
    /// `None` for the untuned model.
    arm: Option<&'static Arm>,
    seed: u64,
    /// Where it is a trial: the learning rate that is tried on validation facts.
    trial: Option<f64>,
}

impl Run {
    /// Its folder below the study's.
    fn folder(&self) -> PathBuf {
        let folder = Path::new("runs").join(self.regime.word);
        let word = |text: &str| text.replace(" %", "").replace(", ", "-").replace(' ', "");
        match (self.arm, self.trial) {
            (None, _) => folder.join("untuned"),
            (Some(arm), Some(lr)) => folder.join("trials").join(format!("{}-lr{lr}", arm.folder())),
            (Some(arm), None) => folder.join(word(&self.level.word)).join(format!("{}-s{}", arm.folder(), self.seed)),
        }
    }
}

/// What runs in a row have in common: all that can be drawn from, and what was drawn for them.
struct Ground<'p> {
    pool: &'p Pool,
    key: &'p str,
    /// Regime, level and side that the items are of.
    of: String,
    items: Vec<Item>,
    tests: Tests,
}

impl Study<'_> {
    /// Runs what is left of these regimes. `stop` ends after the step, or the question, at hand.
    ///
    /// # Errors
    /// [`BioError::Stopped`] where `stop` was set; finished runs and the last checkpoint are kept.
    pub fn run(&self, regimes: &[&'static Regime], stop: &AtomicBool, mut hear: impl FnMut(Progress)) -> Result<()> {
        self.write_down()?;
        let (pool, key) = (Pool::read(self)?, self.key()?);
        let runs: Vec<Run> = regimes.iter().flat_map(|regime| self.planned(regime)).collect();
        let mut ground: Option<Ground<'_>> = None;
        let mut checked = None;
        for (number, run) in runs.iter().enumerate() {
            hear(Progress::Run(number + 1, runs.len(), run.folder().display().to_string()));
            let result = self.folder.join(run.folder()).join("result.json");
            if Measured::read(&result, &key).is_some() {
                hear(Progress::Kept);
                continue;
            }
            if checked != Some(run.regime.word) {
                self.check_leaks(run.regime, &pool)?.into_iter().for_each(|line| hear(Progress::Said(line)));
                checked = Some(run.regime.word);
            }
            // What is asked changes with the level alone, and with whether it is a trial.
            let of = format!("{} {} {}", run.regime.word, run.level.word, run.trial.is_some());
            let there = match ground.take().filter(|ground| ground.of == of) {
                Some(there) => there,
                None => {
                    let items = self.items(run, &pool)?;
                    let tests = Tests::new(self, &pool, &items, run.trial.is_none())?;
                    Ground { pool: &pool, key: &key, of, items, tests }
                }
            };
            let measured = self.one(run, &there, stop, &mut hear)?;
            hear(Progress::Done(summed_up(&measured)));
            ground = Some(there);
        }
        Ok(())
    }

    /// Everything that a regime needs, in the order in which it is run: the untuned model, every
    /// arm's trials, and then seed by seed, so that a study that ends early has all arms.
    fn planned(&self, regime: &'static Regime) -> Vec<Run> {
        let levels = regime.levels(&self.preset);
        let arms: Vec<&'static Arm> = regime.arms(&self.preset).iter().filter_map(|name| Arm::named(name)).collect();
        let primary = levels.iter().find(|level| level.share == regime.primary.share).or(levels.first());
        let Some(primary) = primary else { return Vec::new() };
        let run = |level: &Level, arm, seed, trial| Run { regime, level: level.clone(), arm, seed, trial };
        let mut runs = vec![run(primary, None, 0, None)];
        if !regime.curve {
            for arm in &arms {
                runs.extend(self.preset.rates.iter().map(|lr| run(primary, Some(*arm), TRIAL_SEED, Some(*lr))));
            }
        }
        for seed in 0..self.preset.seeds {
            for level in &levels {
                runs.extend(arms.iter().map(|arm| run(level, Some(*arm), seed, None)));
            }
        }
        runs
    }

    /// Writes the comparisons and sizes into the folder before the first run.
    ///
    /// # Errors
    /// Where the folder holds those of another study.
    fn write_down(&self) -> Result<()> {
        let path = self.folder.join("comparisons.txt");
        let mut text = format!(
            "Written before the first run by bft {}.\n\nOne primary comparison a regime; everything else is secondary, and Holm-corrected.\n\n",
            env!("CARGO_PKG_VERSION")
        );
        REGIMES.iter().for_each(|regime| text.push_str(&format!("- {}\n", regime.comparison())));
        text.push_str(&format!("\nModel: sha256 {}\n{:#?}\n", self.model.sha256()?, self.preset));
        if path.exists() {
            if read_text(&path)? == text {
                return Ok(());
            }
            return Err(BioError::file(
                &path,
                "it was written by a study of another model, preset or version; give another --output",
            ));
        }
        std::fs::create_dir_all(&self.folder).map_err(|error| BioError::file(&self.folder, error))?;
        Ok(bft_formats::write_atomic(&path, |out| out.write_all(text.as_bytes()))?)
    }

    /// What a run's numbers depend on beside its name.
    fn key(&self) -> Result<String> {
        let given = Given { validation: Path::new(""), pass: 1 };
        let mut parts = vec![self.model.sha256()?, format!("{:?}", self.preset), env!("CARGO_PKG_VERSION").to_owned()];
        for arm in ARMS {
            let mut run = TrainConfig::default();
            (arm.set)(&mut run, given);
            parts.push(serde_json::to_string(&run).map_err(BioError::data)?);
        }
        Ok(key(&parts.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    fn items(&self, run: &Run, pool: &Pool) -> Result<Vec<Item>> {
        let side = if run.trial.is_some() { Side::Validation } else { Side::Train };
        pool.items(self, run.regime.material, side, run.level.share, 0)
    }

    /// What a regime trains and tunes by, checked.
    fn check_leaks(&self, regime: &Regime, pool: &Pool) -> Result<Vec<String>> {
        let share = regime.primary.share;
        let items = |side| pool.items(self, regime.material, side, share, 0);
        let tuning = if regime.curve { Vec::new() } else { items(Side::Validation)? };
        let lines = check(&items(Side::Train)?, &tuning, self.preset.phrasings)?;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let folder = self.folder.join("runs").join(regime.word);
        std::fs::create_dir_all(&folder).map_err(|error| BioError::file(&folder, error))?;
        bft_formats::write_atomic(&folder.join("checks.txt"), |out| out.write_all(text.as_bytes()))?;
        Ok(lines)
    }

    /// Trains and measures one run.
    fn one(
        &self,
        run: &Run,
        ground: &Ground<'_>,
        stop: &AtomicBool,
        hear: &mut impl FnMut(Progress),
    ) -> Result<Measured> {
        go_on(stop)?;
        let folder = self.folder.join(run.folder());
        std::fs::create_dir_all(&folder).map_err(|error| BioError::file(&folder, error))?;
        let Ground { items, tests, .. } = ground;
        let mut measured = match run.arm {
            None => tests.measure(self, None, stop)?,
            Some(arm) => {
                let warm = match run.regime.material {
                    Material::Swapped => Some(self.warm(run, items, stop, hear)?),
                    _ => None,
                };
                let (lr, passes) = match (run.level.pace, run.trial) {
                    (Some(pace), _) => pace,
                    (None, Some(lr)) => (lr, self.preset.passes),
                    (None, None) => (self.tuned(run, arm, ground)?, self.preset.passes),
                };
                let rows: Vec<_> = items.iter().flat_map(|item| item.rows(self.preset.phrasings)).collect();
                let validation = self.write_validation(run.regime, ground.pool)?;
                let given = Given { validation: &validation, pass: (rows.len().div_ceil(self.preset.batch)) as u64 };
                let mut config = self.config(&folder, &rows, run.seed)?;
                (config.lr, config.epochs, config.init_adapter) = (lr, Some(passes), warm);
                (arm.set)(&mut config, given);
                let adapter = self.tune(&config, stop, hear)?;
                Measured { lr, ..tests.measure(self, Some(&adapter), stop)? }
            }
        };
        ground.key.clone_into(&mut measured.key);
        measured.write(&folder.join("result.json"))?;
        // The numbers stay; adapter and checkpoints would be gigabytes.
        remove(&folder.join("adapter"))?;
        Ok(measured)
    }

    /// Rows that an arm with early stopping looks at: validation facts behind those that are drawn
    /// for the trials.
    fn write_validation(&self, regime: &Regime, pool: &Pool) -> Result<PathBuf> {
        let path = self.folder.join("runs").join(regime.word).join("validation.jsonl");
        if !path.exists() {
            let material = match regime.material {
                Material::Definitions | Material::Long => Material::Definitions,
                _ => Material::Facts,
            };
            let skip = match material {
                Material::Definitions => self.preset.terms,
                _ => self.preset.facts * self.preset.candidates,
            };
            let items = pool.items(self, material, Side::Validation, 0.0, skip)?;
            let text: String = items.iter().map(|item| row(&item.test_question(), &item.fact.sentence())).collect();
            bft_formats::write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
        }
        Ok(path)
    }

    /// The learning rate whose trial got the most of the validation facts' tokens right; of several,
    /// the lowest.
    fn tuned(&self, run: &Run, arm: &'static Arm, ground: &Ground<'_>) -> Result<f64> {
        let mut best = None;
        for lr in self.preset.rates {
            let trial = Run { arm: Some(arm), trial: Some(*lr), ..run.clone() };
            let result = self.folder.join(trial.folder()).join("result.json");
            let found = Measured::read(&result, ground.key).and_then(|trial| trial.value(&measure::TOP));
            let found =
                found.ok_or_else(|| BioError::file(&result, "a trial's numbers are missing; run its regime"))?;
            if best.is_none_or(|(most, _)| found > most) {
                best = Some((found, *lr));
            }
        }
        best.map(|(_, lr)| lr).ok_or_else(|| BioError::data("the preset has no learning rates"))
    }

    /// The adapter of the warm start, which knows the first half of the facts; made once a seed.
    fn warm(&self, run: &Run, items: &[Item], stop: &AtomicBool, hear: &mut impl FnMut(Progress)) -> Result<PathBuf> {
        let name = if run.trial.is_some() { "warm-trials".to_owned() } else { format!("warm-s{}", run.seed) };
        let folder = self.folder.join("runs").join(run.regime.word).join(name);
        let (adapter, done) = (folder.join("adapter"), folder.join("done"));
        if !done.exists() {
            std::fs::create_dir_all(&folder).map_err(|error| BioError::file(&folder, error))?;
            let known = items.iter().filter(|item| item.group.starts_with("known"));
            let truth = known.map(|item| Item { told: item.fact.answer.clone(), ..item.clone() });
            let rows: Vec<_> = truth.flat_map(|item| item.rows(self.preset.phrasings)).collect();
            let mut config = self.config(&folder, &rows, run.seed)?;
            (config.lr, config.epochs, config.loss) =
                (WARM_RATE, Some(self.preset.warm_passes), bft_core::LossKind::Sft);
            self.tune(&config, stop, hear)?;
            remove(&adapter.join("checkpoints"))?;
            bft_formats::write_atomic(&done, |out| out.write_all(b"done\n"))?;
        }
        Ok(adapter)
    }

    /// Settings that all arms share; writes the rows.
    fn config(&self, folder: &Path, rows: &[(String, String)], seed: u64) -> Result<TrainConfig> {
        let path = folder.join("rows.jsonl");
        let text: String = rows.iter().map(|(question, answer)| row(question, answer)).collect();
        bft_formats::write_atomic(&path, |out| out.write_all(text.as_bytes()))?;
        Ok(TrainConfig {
            model: self.model_path.clone(),
            data: path.into(),
            output: folder.join("adapter"),
            batch_size: self.preset.batch,
            seed,
            save_every: 200,
            ..TrainConfig::default()
        })
    }

    /// Trains; a run that was stopped goes on from its checkpoint, one that was stopped before its
    /// first begins anew.
    fn tune(&self, config: &TrainConfig, stop: &AtomicBool, hear: &mut impl FnMut(Progress)) -> Result<Adapter> {
        let resumed = if config.output.exists() {
            Trainer::open(TrainConfig { resume: true, ..config.clone() }, self.model).ok()
        } else {
            None
        };
        let trainer = match resumed {
            Some(trainer) => trainer,
            None => {
                remove(&config.output)?;
                Trainer::open(config.clone(), self.model).map_err(BioError::model)?
            }
        };
        let mut steps = 0;
        let finished = pollster::block_on(trainer.tune(self.device, stop, &mut |event| match event {
            Event::Started(started) => steps = started.steps,
            Event::Step(step) => hear(Progress::Step(step.step, steps)),
            _ => {}
        }))
        .map_err(BioError::model)?;
        if finished.stopped {
            return Err(BioError::Stopped);
        }
        Ok(Adapter::load(&finished.adapter, &self.model.config)?)
    }

    /// Reads what all regimes have so far.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn found(&self) -> Result<Vec<Found>> {
        let key = self.key()?;
        let mut found = Vec::new();
        for run in REGIMES.iter().flat_map(|regime| self.planned(regime)).filter(|run| run.trial.is_none()) {
            let measured = Measured::read(&self.folder.join(run.folder()).join("result.json"), &key);
            let arm = run.arm.map(|arm| arm.name);
            found.extend(measured.map(|run_of| Found {
                regime: run.regime,
                level: run.level,
                arm,
                seed: run.seed,
                measured: run_of,
            }));
        }
        Ok(found)
    }

    /// What the report says of how it came to be; `command` and `machine` as the caller knows them.
    fn about(&self, command: &str, machine: &str) -> Result<Vec<(String, String)>> {
        let size = &self.preset;
        let mut about: Vec<(&str, String)> =
            size.warning.map(|warning| ("warning", warning.to_owned())).into_iter().collect();
        about.extend([
            ("command", command.to_owned()),
            ("machine", machine.to_owned()),
            ("model", format!("{}, sha256 {}", self.model.name, self.model.sha256()?)),
            (
                "data",
                "org.Hs.eg.db 3.16.0-1, GO.db 3.16.0-1 (annotation that a person judged); English: the Jargon File 4.4.7".to_owned(),
            ),
            (
                "size",
                format!(
                    "{} facts or {} definitions or {} long answers, {} phrasings, {} passes, {} rows a step; {} seeds; LoRA rank 16 on all linear layers, cosine schedule",
                    size.facts, size.terms, size.long, size.phrasings, size.passes, size.batch, size.seeds
                ),
            ),
            (
                "learning rate",
                format!("of {:?} by the top-1 of validation facts, every arm with as many trials and one seed", size.rates),
            ),
            (
                "intervals",
                format!("95 %, {} redraws of seeds and units, the same for both arms of a difference", size.redraws),
            ),
        ]);
        Ok(about.into_iter().map(|(what, value)| (what.to_owned(), value)).collect())
    }

    /// Writes report.html, report.tsv and the pictures; gives the summary.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn report(&self, command: &str, machine: &str) -> Result<Summary> {
        let mut checks = Vec::new();
        for regime in REGIMES {
            let path = self.folder.join("runs").join(regime.word).join("checks.txt");
            if path.exists() {
                checks.extend(read_text(&path)?.lines().map(|line| (regime.word.to_owned(), line.to_owned())));
            }
        }
        let summary = Summary::new(&self.found()?, &self.preset, &self.about(command, machine)?, &checks);
        let write = |name: &str, text: &str| {
            bft_formats::write_atomic(&self.folder.join(name), |out| out.write_all(text.as_bytes()))
        };
        write("report.tsv", &summary.tables().map(|table| table.tsv() + "\n").collect::<String>())?;
        let mut pictures = Vec::new();
        for (name, picture) in
            [("learnt.svg", figures::learnt(&summary)?), ("forgetting.svg", figures::forgetting(&summary)?)]
        {
            if let Some(svg) = picture {
                write(name, &svg)?;
                pictures.push(svg);
            }
        }
        write("report.html", &page::page(&summary, &pictures))?;
        Ok(summary)
    }
}

/// Seed of the trials of learning rates.
const TRIAL_SEED: u64 = 1000;

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(BioError::file(folder, error)),
        _ => Ok(()),
    }
}

fn summed_up(measured: &Measured) -> String {
    let values =
        MEASURES.iter().filter_map(|measure| Some(format!("{} {:.3}", measure.name, measured.value(measure)?)));
    values.collect::<Vec<_>>().join("; ")
}
