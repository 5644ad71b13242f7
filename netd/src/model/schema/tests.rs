//! The rules beside what libvirtd 12.8 answers.

use super::kind::Kind;
use super::*;

/// Compares with what libvirtd answered to each case; returns how many it refused, and took.
fn compare(cases: &str, validate: impl Fn(&str) -> Result<(), XmlError>) -> (usize, usize) {
    let mut counts = (0, 0);
    for line in cases.lines() {
        let Some((word, text)) = line.split_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let text = text.replace("\\n", "\n");
        match (word, validate(&text)) {
            ("refused", Err(XmlError::Schema(_))) => counts.0 += 1,
            ("taken", Ok(())) => counts.1 += 1,
            (_, result) => panic!("{word}, but {result:?}: {text}"),
        }
    }
    counts
}

#[test]
fn what_libvirts_schema_refuses_is_refused() {
    let counts = compare(include_str!("cases.txt"), validate);
    assert!(counts.0 > 100 && counts.1 > 150, "{counts:?}");
}

#[test]
fn what_libvirts_schema_refuses_of_a_port_is_refused() {
    let counts = compare(include_str!("port_cases.txt"), validate_port);
    assert_eq!(counts, (115, 60));
}

#[test]
fn what_is_no_port_is_told_by_its_root() {
    let error = XmlError::Value("expecting root element of 'networkport', not 'network'".into());
    assert_eq!(validate_port("<network/>"), Err(error));
}

#[test]
fn the_error_names_element_and_line() {
    for (inside, words) in [
        (
            "\n<bogus/>",
            "line 2: element bogus in network is not known",
        ),
        (
            "<ip><bogus/></ip>",
            "line 1: element bogus in ip is not known",
        ),
        (
            "<ip bogus='1'/>",
            "line 1: element ip in network has no attribute 'bogus'",
        ),
        ("<ip/>text", "line 1: element network holds text"),
        (
            "<mtu/>",
            "line 1: element mtu in network lacks attribute 'size'",
        ),
        (
            "<dns/><dns/>",
            "line 1: element dns in network is given a second time",
        ),
        (
            "<vlan/>",
            "line 1: element vlan in network lacks element tag",
        ),
        (
            "<bridge stp='x'/>",
            "line 1: element bridge in network has stp='x', which should be on or off",
        ),
    ] {
        let text = format!("<network><name>n</name>{inside}</network>");
        let error = validate(&text).expect_err(&text);
        assert_eq!(error, XmlError::Schema(words.to_owned()), "{text}");
    }
    assert_eq!(
        validate("<network/>"),
        Err(XmlError::Schema(
            "line 1: element network lacks element name".to_owned()
        ))
    );
}

#[test]
fn duids_are_of_the_four_types() {
    for (duid, is_one) in [
        ("0:1:0:1:18:aa:62:fe:0:16:3e:44:55:66", true),
        ("00:01:00:01:11:22:33:44:52:54:00:00:00:01", true),
        ("0:2:0:0:ab:11:fb:3", true),
        ("0:3:0:1:0:16:3e:11:22:33", true),
        ("0:3:0:0:0:16:3e:11:22:33", false),
        ("0:4:7f:5a:ba:17:a5:83:7f:5a:ba:17:a5:83:7f:5a:ba:17", true),
        ("0:4:7f", false),
        ("0:1", false),
        ("0:1:2", false),
        ("", false),
        ("1:1:0:1:18:aa:62:fe:0:16:3e:44:55:66", false),
    ] {
        assert_eq!(Kind::Duid.takes(duid), is_one, "{duid}");
    }
}
