//! `bft bio study`: the losses side by side.

use std::path::PathBuf;

use bft_bio::BioError;
use bft_bio::genes::resolver::Resolver;
use bft_bio::study::{FULL, MEASURES, Progress, SMALL, Study, TINY};
use bft_fetch::sources::Dataset;
use bft_train::TrainConfig;
use clap::{Args, ValueEnum};

use super::knowledge::Knowledge;
use crate::error::CliError;
use crate::flags::{DeviceFlag, Flags, Takes};
use crate::open;
use crate::stop;
use crate::ui::{self, Progress as Bar};

/// Tune with every loss under the same settings, and report what differs beyond the seeds' spread
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  bft bio study --preset tiny --output study
  bft bio study --preset small --model SmolLM2-135M-Instruct.Q4_1.gguf --output study

SFT, DFT, BFT and BFT-v3 on the same gene facts; then exact match, token F1 and NLL in unseen phrasings, NLL on unseen genes
and on general English, and two embedding tasks. Writes report.html and report.tsv. Stopped, the same command goes on.
Not for clinical use.")]
pub struct StudyFlags {
    /// How large
    #[arg(long, value_enum, default_value_t = PresetFlag::Small)]
    pub preset: PresetFlag,
    /// Folder for data, runs and the report
    #[arg(long, short = 'o', value_name = "DIR")]
    pub output: PathBuf,
    /// The language model [default: the fetched SmolLM2]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Flags<OfEveryRun>,
    #[command(flatten)]
    pub run: DeviceFlag,
}

/// Settings of every run, which the preset has unless they are given.
#[derive(Debug, Clone)]
pub struct OfEveryRun;

impl Takes for OfEveryRun {
    type Settings = TrainConfig;
    const FIELDS: &'static [&'static str] = &["lr"];
    const DEFAULT: Option<&'static str> = Some("the preset's");
}

/// `--preset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetFlag {
    /// minutes; shows that it runs
    Tiny,
    /// under 40 minutes on 2 quiet cores
    Small,
    /// for a GPU, or a night
    Full,
}

/// Runs `bft bio study`.
pub fn run(flags: &StudyFlags) -> Result<(), CliError> {
    let stop = stop::on_signal()?;
    open::writable_folder("--output", &flags.output)?;
    let knowledge = Knowledge::open()?;
    let path = flags.model.clone().map_or_else(|| knowledge.path(Dataset::SmolLm2), Ok)?;
    let model = open::model(&path, None)?;
    let resolver = Resolver::new(&knowledge.genome);
    let (response, complexes) = (knowledge.fitness(&resolver)?, knowledge.complexes(&resolver)?);
    let device = open::device(flags.run.device())?;
    let mut preset = match flags.preset {
        PresetFlag::Tiny => TINY,
        PresetFlag::Small => SMALL,
        PresetFlag::Full => FULL,
    };
    let mut command = format!("bft bio study --preset {}", preset.name);
    if flags.settings.given("lr") {
        preset.lr = flags.settings.lr;
        command.push_str(&format!(" --lr {}", preset.lr));
    }
    let study = Study {
        model_path: path,
        model: &model,
        device: &device,
        genome: &knowledge.genome,
        ontology: &knowledge.ontology,
        response: &response,
        complexes: &complexes,
        folder: flags.output.clone(),
        preset,
    };
    let mut bar: Option<Bar> = None;
    let (mut name, mut before) = (String::new(), 0);
    let found = study
        .run(stop, |event| match event {
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
            Progress::Done(measured) => {
                let values = MEASURES.iter().zip(&measured.values);
                let shown = values.filter_map(|((name, _), value)| Some(format!("{name} {:.3}", (*value)?)));
                ui::note(&format!("  {}", shown.collect::<Vec<_>>().join("; ")));
            }
        })
        .map_err(|error| match error {
            BioError::Stopped => CliError::stopped(error),
            error => CliError::failed(error),
        })?;
    let threads = std::thread::available_parallelism().map_or(0, usize::from);
    let machine = format!("{}, {threads} hardware threads", open::describe(&device));
    let summary = study.report(&found, &command, &machine).map_err(CliError::failed)?;
    let mut rows = vec![
        std::iter::once("loss").chain(MEASURES.iter().map(|(name, _)| *name)).map(str::to_owned).collect::<Vec<_>>(),
    ];
    for (index, row) in summary.rows.iter().enumerate() {
        let cells = (0..MEASURES.len()).map(|measure| summary.shown(index, measure));
        rows.push(std::iter::once(row.name.clone()).chain(cells).collect());
    }
    ui::result(&ui::table(&rows))?;
    for line in summary.against_sft() {
        ui::result(&line)?;
    }
    ui::note(&format!("report: {}", flags.output.join("report.html").display()));
    Ok(())
}
