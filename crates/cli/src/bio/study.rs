//! `bft bio study`: where a loss helps.

use std::path::PathBuf;

use bft_bio::BioError;
use bft_bio::study::{GPU, NIGHT, Progress, REGIMES, Regime, SMALL, Study, TINY};
use bft_fetch::sources::Dataset;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::knowledge::Knowledge;
use crate::error::CliError;
use crate::flags::DeviceFlag;
use crate::hub;
use crate::open;
use crate::stop;
use crate::ui::{self, Progress as Bar};

/// Tune with every loss under several regimes, and report the comparisons that were chosen before
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio study --preset small --output study
  bft bio study --preset night --only bins,swapped --output night

Each regime has one primary comparison, which is written to comparisons.txt before the first run. Learning rates are tuned
for every arm on validation facts. Writes report.html, report.tsv and pictures of what is done so far; stopped, or with
other regimes, the same command goes on. The English text of `bft bio fetch` shows what is forgotten. Not for clinical use.")]
pub struct StudyFlags {
    /// How large
    #[arg(long, value_enum, default_value_t = PresetFlag::Small)]
    pub preset: PresetFlag,
    /// These regimes alone, in a comma list [default: all]
    #[arg(long, value_name = "REGIMES", value_delimiter = ',', value_parser = regime())]
    pub only: Vec<&'static Regime>,
    /// Folder for comparisons, runs and the report
    #[arg(long, short = 'o', value_name = "DIR")]
    pub output: PathBuf,
    /// The language model [default: the fetched SmolLM2]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub run: DeviceFlag,
}

/// The word of a regime.
fn regime() -> impl TypedValueParser<Value = &'static Regime> {
    let words = PossibleValuesParser::new(REGIMES.iter().map(|regime| regime.word));
    words.try_map(|word| Regime::named(&word).ok_or("no regime"))
}

/// `--preset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetFlag {
    /// for tests: shows that it runs
    Tiny,
    /// sized for an hour on 2 cores, not timed yet; not a result
    Small,
    /// sized for ten hours on 2 cores, not timed yet; in parts by --only
    Night,
    /// for a GPU
    Gpu,
}

/// Runs `bft bio study`.
pub fn run(flags: &StudyFlags) -> Result<(), CliError> {
    let stop = stop::on_signal()?;
    open::writable_folder("--output", &flags.output)?;
    let knowledge = Knowledge::open()?;
    let english = knowledge.path(Dataset::English)?;
    let path = match &flags.model {
        Some(path) => hub::model_path("--model", path)?,
        None => knowledge.path(Dataset::SmolLm2)?,
    };
    let model = open::model(&path, None)?;
    let device = open::device(flags.run.device())?;
    let preset = match flags.preset {
        PresetFlag::Tiny => TINY,
        PresetFlag::Small => SMALL,
        PresetFlag::Night => NIGHT,
        PresetFlag::Gpu => GPU,
    };
    if let Some(warning) = preset.warning {
        ui::warn(&format!("--preset {}: {warning}", preset.name));
    }
    let mut regimes: Vec<&'static Regime> = REGIMES.iter().collect();
    if !flags.only.is_empty() {
        regimes.retain(|regime| flags.only.iter().any(|only| only.word == regime.word));
    }
    let mut command = format!("bft bio study --preset {}", preset.name);
    if let Some(model) = &flags.model {
        command.push_str(&format!(" --model {}", model.display()));
    }
    let study = Study {
        model_path: path,
        model: &model,
        device: &device,
        genome: &knowledge.genome,
        ontology: &knowledge.ontology,
        english: &english,
        folder: flags.output.clone(),
        preset,
    };
    let mut bar: Option<Bar> = None;
    let (mut name, mut before) = (String::new(), 0);
    study
        .run(&regimes, stop, |event| match event {
            Progress::Run(number, of, run) => {
                name = format!("run {number} of {of}, {run}");
                before = number as u64 - 1;
                bar = Some(Bar::new("study", "runs", of as u64, before));
                ui::note(&name);
            }
            Progress::Step(step, steps) => {
                if let Some(bar) = &mut bar {
                    bar.at(before, &format!("{name}: step {step} of {steps}"));
                }
            }
            Progress::Kept => ui::note("  done before"),
            Progress::Done(text) | Progress::Said(text) => ui::note(&format!("  {text}")),
        })
        .map_err(|error| match error {
            BioError::Stopped => CliError::stopped(error),
            error => CliError::failed(error),
        })?;
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let machine = format!("{}, {threads} hardware threads", open::describe(&device));
    let summary = study.report(&command, &machine).map_err(CliError::failed)?;
    summary.comparisons.iter().try_for_each(|line| ui::result(line))?;
    for table in summary.tables() {
        ui::result(&format!("\n{}", table.title))?;
        table.about.iter().for_each(|(what, value)| ui::note(&format!("{what}: {value}")));
        ui::result(&ui::table(&table.cells()))?;
    }
    ui::note(&format!("report: {}", flags.output.join("report.html").display()));
    Ok(())
}
