//! Rules made up, and what is found of them. Real ones, of nft and iptables-nft, are in the tests in
//! namespaces.

use super::*;
use crate::model::Prefix;

fn guarded() -> Guarded {
    Guarded {
        network: "n".to_owned(),
        devices: vec![("virbr0".to_owned(), 5), ("vnet7".to_owned(), 6)],
        subnets: vec!["192.168.122.0/24".parse::<Prefix>().unwrap()],
        ports: vec![(8080, 8080)],
        foreign: vec!["docker0".to_owned(), "virbr0".to_owned()],
    }
}

fn is(field: Field, bytes: &[u8]) -> Match {
    Match {
        field,
        negated: false,
        values: Values::Exact(bytes.to_vec()),
    }
}

fn device(text: &str) -> Match {
    is(Field::InName, text.as_bytes())
}

fn rule(handle: u64, matches: Vec<Match>, action: Action) -> Rule {
    Rule {
        handle,
        matches,
        actions: vec![action],
        plain: false,
        text: format!("rule {handle}"),
    }
}

fn chain(name: &str, hook: Option<Hook>, rules: Vec<Rule>) -> Chain {
    Chain {
        family: "inet",
        table: "t".to_owned(),
        name: name.to_owned(),
        hook,
        devices: Vec::new(),
        rules,
    }
}

fn found(chains: Vec<Chain>) -> Vec<String> {
    let ruleset = Ruleset {
        chains,
        ..Ruleset::default()
    };
    let found = passed_by(&ruleset, &[guarded()]).into_iter();
    found.map(|finding| finding.to_string()).collect()
}

#[test]
fn rules_that_name_what_is_netds_are_found() {
    for (one, named) in [
        (device("virbr0\0"), true),
        (device("vnet"), true),
        (device("virbr"), true),
        (device("virbr00\0"), false),
        (device("eth0\0"), false),
        (is(Field::OutIndex, &6u32.to_ne_bytes()), true),
        (is(Field::OutIndex, &7u32.to_ne_bytes()), false),
        (is(Field::Source, &[192, 168, 122, 9]), true),
        (is(Field::Source, &[192, 168, 123, 9]), false),
        (is(Field::Port, &8080u16.to_be_bytes()), true),
        (is(Field::Port, &80u16.to_be_bytes()), false),
        (
            Match {
                values: Values::Range(vec![192, 168, 0, 0], vec![192, 168, 255, 255]),
                ..is(Field::Destination, &[])
            },
            true,
        ),
        (
            Match {
                values: Values::Range(vec![0; 4], vec![255; 4]),
                ..is(Field::Destination, &[])
            },
            false,
        ),
    ] {
        let rules = vec![rule(1, vec![one.clone()], Action::Other("log".to_owned()))];
        let found = found(vec![chain("f", Some(Hook::Forward), rules)]);
        assert_eq!(found.len(), usize::from(named), "{one:?}: {found:?}");
    }
}

#[test]
fn what_lets_pass_and_what_is_for_others_is_not() {
    let virbr0 = || vec![device("virbr0\0")];
    for (matches, action, hook) in [
        (virbr0(), Action::Accept, Hook::Forward),
        (virbr0(), Action::Return, Hook::Forward),
        (virbr0(), Action::Drop, Hook::Input),
        (virbr0(), Action::Drop, Hook::Output),
        (vec![], Action::Drop, Hook::Forward),
        (
            vec![device("docker0\0"), is(Field::Port, &8080u16.to_be_bytes())],
            Action::Drop,
            Hook::Forward,
        ),
        (
            vec![device("docker0\0"), is(Field::Source, &[203, 0, 113, 1])],
            Action::Drop,
            Hook::Forward,
        ),
        (
            vec![is(Field::Source, &[127, 0, 0, 1])],
            Action::Drop,
            Hook::Forward,
        ),
    ] {
        let rules = vec![rule(1, matches.clone(), action.clone())];
        let found = found(vec![chain("f", Some(hook), rules)]);
        assert!(
            found.is_empty(),
            "{matches:?} {action:?} {hook:?}: {found:?}"
        );
    }
}

/// A rule that leads to another chain names for all that is there.
#[test]
fn chains_are_followed() {
    let jump = rule(
        1,
        vec![device("virbr0\0")],
        Action::Jump("other".to_owned()),
    );
    let base = chain("f", Some(Hook::Forward), vec![jump]);
    let other = vec![
        rule(2, vec![], Action::Accept),
        rule(3, vec![], Action::Drop),
        rule(4, vec![], Action::Jump("other".to_owned())),
    ];
    let found = found(vec![base, chain("other", None, other)]);
    assert_eq!(
        found,
        [
            "table inet t, chain other, handle 3: rule 3: names device virbr0 of network 'n', whose \
             packets do not pass it"
        ]
    );
}

#[test]
fn of_many_bans_one_is_told() {
    let ban = |handle: u8| {
        let source = is(Field::Source, &[203, 0, 113, handle]);
        rule(handle.into(), vec![source], Action::Reject)
    };
    let jump = rule(1, vec![], Action::Jump("f2b-sshd".to_owned()));
    let base = chain("INPUT", Some(Hook::Input), vec![jump]);
    let bans = (2..9).map(ban).collect();
    let found = found(vec![base, chain("f2b-sshd", None, bans)]);
    assert_eq!(
        found,
        [
            "table inet t, chain f2b-sshd, handle 2: rule 2: bans by source, which guests' packets do \
             not pass; 6 more there"
        ]
    );
}
