//! The command line by itself.

use clap::CommandFactory;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_shows_examples() {
    let cli = Cli::command();
    let nested = cli
        .get_subcommands()
        .flat_map(clap::Command::get_subcommands);
    for verb in cli.get_subcommands().chain(nested) {
        let help = verb.get_after_help().map(ToString::to_string);
        assert!(
            verb.is_hide_set() || help.is_some_and(|help| help.contains("Examples:")),
            "{}",
            verb.get_name()
        );
    }
}

#[test]
fn max_flows_overrides_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let config_dir = dir.path().to_str().unwrap();
    let run = |more: &[&str]| {
        let args = ["netd", "run", "--config-dir", config_dir];
        let cli = Cli::try_parse_from(args.iter().chain(more))?;
        let Command::Run(args) = cli.command else {
            panic!("{:?}", cli.command);
        };
        Ok::<_, clap::Error>(args.config().unwrap().flows)
    };
    assert_eq!(run(&[]).unwrap().max, 131_072);
    std::fs::write(
        dir.path().join("netd.toml"),
        "[flows]\nmax = 5000\nmax_per_network = 70",
    )
    .unwrap();
    assert_eq!(run(&[]).unwrap().max, 5000);
    let flows = run(&["--max-flows", "6000"]).unwrap();
    assert_eq!((flows.max, flows.max_per_network), (6000, 70));
    for bad in ["1023", "8388609", "-1", "many"] {
        run(&[&format!("--max-flows={bad}")]).unwrap_err();
    }
}

#[test]
fn options_may_stand_before_and_after_the_verb() {
    let cli = Cli::parse_from(["netd", "net-list", "-q", "--socket", "/s", "--all"]);
    assert!(cli.quiet);
    assert_eq!(cli.socket, PathBuf::from("/s"));
    let cli = Cli::parse_from(["netd", "lease-helper", "add", "-x", "--help"]);
    let Command::LeaseHelper { args } = cli.command else {
        panic!("{:?}", cli.command);
    };
    assert_eq!(args, ["add", "-x", "--help"]);
}
