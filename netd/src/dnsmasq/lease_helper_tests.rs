//! What dnsmasq says, and what is then in the file and in the answer to `init`.

use std::collections::HashMap;
use std::fs;

use super::*;

struct Helper {
    dir: tempfile::TempDir,
}

impl Helper {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn call(&self, args: &[&str], env: &[(&str, &str)]) -> Result<String, HelperError> {
        let mut variables: HashMap<_, OsString> =
            env.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
        variables.insert(HELPER_DIR_VARIABLE.into(), self.dir.path().into());
        let bridge = HELPER_BRIDGE_VARIABLE.to_owned();
        variables.entry(bridge).or_insert_with(|| "virbr0".into());
        let args: Vec<OsString> = args.iter().map(Into::into).collect();
        let mut out = Vec::new();
        run(&args, |name| variables.get(name).cloned(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}

const MAC: &str = "52:54:00:00:00:01";
const EXPIRES: (&str, &str) = ("DNSMASQ_LEASE_EXPIRES", "2000000000");

#[test]
fn a_lease_comes_changes_and_goes() {
    let helper = Helper::new();
    assert_eq!(helper.call(&["init"], &[]).unwrap(), "");
    let env = [EXPIRES, ("DNSMASQ_CLIENT_ID", "01:52:54")];
    helper
        .call(&["add", MAC, "10.0.0.5", "guest"], &env)
        .unwrap();
    assert_eq!(
        helper.file("virbr0.status"),
        "[\n  {\n    \"ip-address\": \"10.0.0.5\",\n    \"mac-address\": \"52:54:00:00:00:01\",\n    \
         \"hostname\": \"guest\",\n    \"client-id\": \"01:52:54\",\n    \"expiry-time\": 2000000000\n  }\n]\n"
    );
    let line = "2000000000 52:54:00:00:00:01 10.0.0.5 guest 01:52:54\n";
    assert_eq!(helper.call(&["init"], &[]).unwrap(), line);

    helper
        .call(&["add", "52:54:00:00:00:02", "10.0.0.6"], &[])
        .unwrap();
    helper.call(&["old", MAC, "10.0.0.5"], &[EXPIRES]).unwrap();
    assert_eq!(
        helper.call(&["init"], &[]).unwrap(),
        "0 52:54:00:00:00:02 10.0.0.6 * *\n2000000000 52:54:00:00:00:01 10.0.0.5 * *\n"
    );
    helper
        .call(&["del", MAC, "10.0.0.5", "guest"], &[])
        .unwrap();
    helper.call(&["del", MAC, "10.0.0.6"], &[]).unwrap();
    assert_eq!(helper.file("virbr0.status"), "[]\n");
    assert_eq!(fs::read_dir(helper.dir.path()).unwrap().count(), 1);
}

#[test]
fn ipv6_leases_have_a_duid_and_an_iaid() {
    let helper = Helper::new();
    let env = [
        EXPIRES,
        ("DNSMASQ_IAID", "77"),
        ("DNSMASQ_MAC", MAC),
        ("DNSMASQ_SERVER_DUID", "00:01:ff"),
    ];
    helper
        .call(&["add", "00:03:aa", "fd00::5", "six"], &env)
        .unwrap();
    helper.call(&["add", MAC, "10.0.0.5"], &[EXPIRES]).unwrap();
    assert_eq!(
        helper.call(&["init"], &[]).unwrap(),
        "2000000000 52:54:00:00:00:01 10.0.0.5 * *\nduid 00:01:ff\n2000000000 77 fd00::5 six 00:03:aa\n"
    );
    // Without a MAC address nothing is kept, and what was there is gone.
    helper
        .call(&["add", "00:03:aa", "fd00::5"], &[("DNSMASQ_IAID", "77")])
        .unwrap();
    assert!(!helper.file("virbr0.status").contains("fd00::5"));
}

#[test]
fn the_bridge_is_the_one_dnsmasq_names() {
    let helper = Helper::new();
    let env = [("DNSMASQ_INTERFACE", "br7"), ("VIR_BRIDGE_NAME", "other")];
    helper.call(&["add", MAC, "10.0.0.5"], &env).unwrap();
    assert!(helper.file("br7.status").contains("10.0.0.5"));
    for bad in ["../x", "a/b", "..", "0123456789abcdef"] {
        let env = [("DNSMASQ_INTERFACE", bad)];
        assert!(
            helper.call(&["add", MAC, "10.0.0.5"], &env).is_err(),
            "{bad}"
        );
    }
    assert!(matches!(
        helper.call(&["init"], &[("VIR_BRIDGE_NAME", "")]),
        Err(HelperError::NoBridge)
    ));
}

#[test]
fn host_names_are_taken_from_where_they_are_known() {
    let helper = Helper::new();
    let both = [
        ("DNSMASQ_SUPPLIED_HOSTNAME", "supplied"),
        ("DNSMASQ_OLD_HOSTNAME", "old"),
    ];
    for (args, env, expected) in [
        (&["add", MAC, "10.0.0.5", "given"][..], &both[..], "given"),
        (&["add", MAC, "10.0.0.5"], &both, "supplied"),
        (&["add", MAC, "10.0.0.5"], &both[1..], "old"),
    ] {
        helper.call(args, env).unwrap();
        let answer = helper.call(&["init"], &[]).unwrap();
        assert_eq!(answer.split(' ').nth(3), Some(expected));
    }
}

#[test]
fn what_a_guest_makes_up_stays_within_its_field() {
    let helper = Helper::new();
    for name in [
        "a b",
        "www.example.com",
        "x\n0 aa 10.0.0.9 evil *",
        "é",
        &"x".repeat(2000),
    ] {
        let env = [
            ("DNSMASQ_SUPPLIED_HOSTNAME", name),
            ("DNSMASQ_CLIENT_ID", name),
        ];
        helper.call(&["add", MAC, "10.0.0.5"], &env).unwrap();
        let answer = helper.call(&["init"], &[]).unwrap();
        assert_eq!(answer.lines().count(), 1, "{name:?}");
        assert_eq!(answer.split_whitespace().count(), 5, "{name:?}");
        assert_eq!(answer.split(' ').nth(3), Some("*"), "{name:?}");
    }
}

#[test]
fn other_calls_are_errors() {
    let helper = Helper::new();
    for args in [
        &[][..],
        &["add"],
        &["add", MAC],
        &["add", MAC, "10.0.0.5", "a", "b"],
        &["init", "x"],
        &["bogus", MAC, "10.0.0.5"],
    ] {
        let error = helper.call(args, &[]).unwrap_err();
        assert!(matches!(error, HelperError::Usage), "{args:?}");
    }
    assert!(helper.call(&["add", MAC, "nowhere"], &[]).is_err());
    for expiry in ["soon", "-1", "99999999999999999999"] {
        let env = [("DNSMASQ_LEASE_EXPIRES", expiry)];
        assert!(helper.call(&["add", MAC, "10.0.0.5"], &env).is_err());
    }
    assert!(helper.call(&["tftp", "1", "10.0.0.5", "/x"], &[]).is_ok());
    assert!(!helper.dir.path().join("virbr0.status").exists());
}

#[test]
fn a_broken_file_is_started_over() {
    let helper = Helper::new();
    for broken in ["[{", "no json", "{}", ""] {
        fs::write(helper.dir.path().join("virbr0.status"), broken).unwrap();
        helper.call(&["add", MAC, "10.0.0.5"], &[]).unwrap();
        assert_eq!(helper.call(&["init"], &[]).unwrap().lines().count(), 1);
    }
}

#[test]
fn helpers_at_the_same_time_lose_nothing() {
    let helper = Helper::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let helper = &helper;
            scope.spawn(move || {
                for i in 0..10 {
                    helper
                        .call(&["add", MAC, &format!("10.0.{thread}.{i}")], &[])
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(helper.call(&["init"], &[]).unwrap().lines().count(), 40);
}
