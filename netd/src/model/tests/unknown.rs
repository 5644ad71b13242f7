//! What of a text nobody knows, and what of it nobody may pass over.

use super::*;

/// What is not known of a definition, a line each.
fn unknown(text: &str) -> Vec<String> {
    let parsed = parse_whole(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    parsed.unknown.iter().map(ToString::to_string).collect()
}

#[test]
fn typos_are_named_with_their_lines() {
    let text = "<network autostart='yes' m:x='y' xmlns:m='urn:m'>
  <name>net</name>
  <bogus><port isolated='yes'/></bogus>
  <port isolate='yes'/>
  <bridge name='br0'/>
  <bridge name='br1'/>
  <ip address='192.168.122.1' prefix='24'>
    <dhcp><host mac='52:54:00:00:00:01' ip='192.168.122.9'><lease time='5'/><bogus/></host></dhcp>
  </ip>
  <metadata><plain/><m:kept any='thing'><bogus/></m:kept></metadata>
  <m:options/>
</network>";
    assert_eq!(
        unknown(text),
        [
            "line 1: <network> has no attribute 'autostart'",
            "line 1: <network> has no attribute 'x'",
            "line 3: <bogus> is not known",
            "line 4: <port> has no attribute 'isolate'",
            "line 6: <bridge> is given a second time",
            "line 8: <bogus> in <host> is not known",
            "line 10: <plain> in <metadata> is not known",
            "line 11: <options> of namespace 'urn:m' is not known",
        ]
    );
    // Without them it is the same definition.
    let parsed = parse_whole(text).unwrap();
    let canonical = format(&parsed.network, FormatOptions::default());
    assert_eq!(parse(&canonical).unwrap(), parsed.network);
    assert_eq!(unknown(&canonical), [""; 0]);
}

#[test]
fn there_is_an_end_to_what_is_told() {
    let attributes: String = (0..200).map(|n| format!(" a{n}='x'")).collect();
    let many = "<bogus/>".repeat(20_000);
    let told = unknown(&network(&format!("<port{attributes}/>{many}")));
    assert_eq!(told.len(), 20);
    let last = told.last().unwrap();
    assert!(last.ends_with("'a19', and 20180 more"), "{last}");
    let long = "x".repeat(5000);
    let told = unknown(&network(&format!("<{long} {long}='{long}'/>")));
    assert!(told.iter().all(|line| line.len() < 200), "{told:?}");
}

#[test]
fn what_is_meant_for_netd_stands_under_metadata() {
    for elements in [
        "<n:antispoof xmlns:n='urn:netd:network:1'/>",
        "<n:antispoof xmlns:n='urn:netd:network:2'/>",
        "<bridge><n:antispoof xmlns:n='urn:netd:network:1'/></bridge>",
        "<bogus><n:antispoof xmlns:n='urn:netd:network:1'/></bogus>",
        "<metadata/><metadata><n:antispoof xmlns:n='urn:netd:network:1'/></metadata>",
    ] {
        let error = parse(&network(elements)).expect_err(elements).to_string();
        assert!(error.contains("<antispoof>"), "{error}");
        assert!(
            error.contains("what is meant for netd stands under <metadata>"),
            "{error}"
        );
    }
    // What others keep is theirs, wherever it comes from.
    parse(&network(
        "<metadata><o:x xmlns:o='urn:o'><n:y xmlns:n='urn:netd:network:1'/></o:x></metadata>",
    ))
    .unwrap();
}
