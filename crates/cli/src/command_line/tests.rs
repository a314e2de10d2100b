use std::path::PathBuf;

use super::*;
use crate::train::TrainFlags;

fn complaint(line: &str) -> String {
    let argv = line.split(' ').map(OsString::from).collect();
    match parse(argv) {
        Err(error @ CliError::Usage(_)) => error.to_string(),
        other => panic!("{line}: expected a usage error, got {other:?}"),
    }
}

#[test]
fn clap_finds_no_fault_in_the_definition() {
    definition().debug_assert();
}

#[test]
fn every_verb_has_an_example_and_every_flag_a_help_text() {
    let command = CommandLine::command();
    let verbs = command.get_subcommands().flat_map(|verb| {
        let below = verb.get_subcommands();
        let named = below.map(|it| (format!("{} {}", verb.get_name(), it.get_name()), it));
        std::iter::once((verb.get_name().to_owned(), verb)).chain(named.collect::<Vec<_>>())
    });
    for (name, verb) in verbs {
        let after = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.contains(&format!("bft {name}")), "{name} has no example");
        assert!(verb.get_about().is_some(), "{name} says not what it does");
        for arg in verb.get_arguments() {
            assert!(arg.get_help().is_some(), "{name}: {} has no help", arg.get_id());
            // -o alone is what everybody types for an output.
            let short = arg.get_short();
            assert!(matches!(short, None | Some('o')) || arg.get_id() == "help");
        }
    }
}

#[test]
fn a_typo_anywhere_names_the_nearest() {
    let cases = [
        ("bft trian --model m", "did you mean bft train?"),
        ("bft train --modle m", "did you mean --model?"),
        ("bft train --learning-rate 1", "did you mean --lr?"),
        ("bft train --model m --data d --output o --loss btf", "did you mean bft?"),
        ("bft train --model m --data d --output o --schedule cosin", "did you mean cosine?"),
        ("bft train --model m --data d --output o --target-modules q_porj", "did you mean q_proj?"),
        ("bft train --model m --data d --output o --device gpuu", "did you mean gpu?"),
        ("bft train --model m --data d --output o --checkpoint-activations atuo", "did you mean auto?"),
        ("bft embed --model m --input i --output o --pooling men", "did you mean mean?"),
        ("bft train model", "did you mean --model?"),
        ("bft --model m", "bft takes a verb before --model"),
        ("bft devices --rank 4", "it belongs to bft train"),
        ("bft train --test_split 0.1", "did you mean --val-size?"),
        ("bft train --val-sise 0.1", "did you mean --val-size?"),
        ("bft train --max_sampels 10", "did you mean --max-samples?"),
        ("bft train --sample-sed 1", "did you mean --sample-seed?"),
        ("bft train --colums a=b", "did you mean --columns?"),
        (
            "bft train --model m --data d --output o --columns promt=q",
            "no format of rows has a key \"promt\"; did you mean prompt?",
        ),
        ("bft train --model m --data d --output o --columns prompt", "expected KEY=COLUMN, such as prompt=question"),
        ("bft bio fech", "did you mean bft bio fetch?"),
        ("bft bio fetch --onyl genes", "did you mean --only?"),
    ];
    for (line, expected) in cases {
        let message = complaint(line);
        assert!(message.contains(expected), "{line}: {message}");
        assert!(!message.contains('\n'), "{line}: {message}");
    }
}

#[test]
fn a_flag_of_another_meaning_is_not_suggested() {
    for line in
        ["bft train --min-length 8", "bft train --log-every 5", "bft eval --val-size 0.1", "bft train --train-size 9"]
    {
        let message = complaint(line);
        assert!(message.contains("has no flag --") && !message.contains("did you mean"), "{line}: {message}");
    }
}

#[test]
fn bad_values_name_the_flag_and_what_was_found() {
    let cases = [
        ("bft train --rank 0", "--rank: found '0'"),
        ("bft train --rank ten", "--rank: found 'ten'"),
        ("bft train --lr nan", "--lr: found 'nan'"),
        ("bft train --rank", "--rank needs a value"),
        ("bft train --rank 1 --rank 2", "--rank was given twice"),
        ("bft train --model m --data d", "--output <DIR> is missing"),
        ("bft train --model m --data d --output o --steps 1 --epochs 1", "cannot be used with"),
        ("bft", "no verb was given"),
    ];
    for (line, expected) in cases {
        let message = complaint(line);
        assert!(message.contains(expected), "{line}: {message}");
        assert!(!message.contains('\n'), "{line}: {message}");
    }
}

fn parse_with(config: &str, flags: &[&str]) -> Result<TrainFlags, String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run.toml");
    std::fs::write(&path, config).expect("a file");
    let mut argv: Vec<OsString> = ["bft", "train", "--config"].map(OsString::from).to_vec();
    argv.push(path.into());
    argv.extend(flags.iter().map(OsString::from));
    match parse(argv) {
        Ok(Request::Run(verb)) => match *verb {
            Verb::Train(flags) => Ok(flags),
            other => panic!("not a training run: {other:?}"),
        },
        Ok(other) => panic!("not a training run: {other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

const BASE: &str = "model = 'm'\ndata = 'd'\noutput = 'o'\n";

#[test]
fn a_file_holds_every_kind_of_flag() {
    let text = format!(
        "{BASE}rank = 8\nlr = 1\nno-shuffle = true\ntruncate = false\nloss = 'bft-v3'\n\
         target_modules = ['q_proj', 'v_proj']\n"
    );
    let flags = parse_with(&text, &[]).expect("a valid file");
    assert_eq!(flags.settings.rank, 8);
    assert_eq!(flags.settings.lr, 1.0);
    assert!(flags.settings.no_shuffle);
    assert!(!flags.settings.truncate);
    assert_eq!(flags.settings.target_modules, ["q_proj", "v_proj"]);
}

#[test]
fn the_command_line_wins() {
    let text = format!("{BASE}rank = 8\nepochs = 3\n");
    let flags = parse_with(&text, &["--rank", "4", "--steps", "7"]).expect("a valid file");
    assert_eq!(flags.settings.rank, 4);
    assert_eq!(flags.settings.steps, Some(7));
    assert_eq!(flags.settings.epochs, None);
}

#[test]
fn a_resumed_run_takes_its_own_settings_unless_told_otherwise() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = r#"{"settings": {"model": "m", "data": "d", "rank": 4, "lr": 0.0002,
        "alpha": null, "epochs": 2, "no-shuffle": true, "resume": false, "target-modules": ["q_proj"],
        "of-a-later-version": 1}}"#;
    std::fs::write(folder.path().join("run.json"), run).expect("a file");
    let parse = |more: &[&str]| {
        let mut argv: Vec<OsString> = ["bft", "train", "--resume", "--output"].map(OsString::from).to_vec();
        argv.push(folder.path().into());
        argv.extend(more.iter().map(OsString::from));
        match parse(argv) {
            Ok(Request::Run(verb)) => match *verb {
                Verb::Train(flags) => flags,
                other => panic!("not a training run: {other:?}"),
            },
            other => panic!("not a training run: {other:?}"),
        }
    };
    let flags = parse(&[]);
    assert_eq!((flags.settings.rank, flags.settings.epochs, flags.settings.lr), (4, Some(2), 2e-4));
    assert!(flags.settings.resume && flags.settings.no_shuffle);
    assert_eq!(flags.settings.target_modules, ["q_proj"]);
    let flags = parse(&["--steps", "9", "--data", "e"]);
    assert_eq!((flags.settings.steps, flags.settings.epochs), (Some(9), None));
    assert_eq!(flags.settings.data[..], [PathBuf::from("e")]);
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let cases = [
        ("rnak = 8\n", "unknown key `rnak` for bft train; did you mean `rank`?"),
        ("learning_rate = 0.1\n", "did you mean `lr`?"),
        ("rank = '8'\n", "key `rank`: found the text \"8\", expected a whole number"),
        ("rank = 8.5\n", "found the number 8.5, expected a whole number"),
        ("lr = 'fast'\n", "expected a number"),
        ("no-shuffle = 1\n", "found the whole number 1, expected true or false"),
        ("seed = true\n", "found true, expected a whole number"),
        ("[train]\nrank = 8\n", "unknown key `train`"),
        ("config = 'x'\n", "unknown key `config`"),
        ("rank = \n", "line 4: not TOML"),
        ("rank = 0\n", "run.toml: --rank: found '0'"),
        ("loss = 'btf'\n", "did you mean bft?"),
    ];
    for (line, expected) in cases {
        let error = parse_with(&format!("{BASE}{line}"), &[]).expect_err(line);
        assert!(error.contains(expected), "{line}: {error}");
        assert!(error.contains("run.toml"), "{line}: {error}");
    }
}
