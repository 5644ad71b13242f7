//! Text that is meant to hurt: refused quickly and with a clear error.

use std::time::Duration;

use super::*;
use crate::api::{ApiError, ErrorCode};

/// Refused as unreadable, in a time that shows the limits are checked before the work is done.
fn unreadable(text: &str, words: &str) {
    let start = Processor::now();
    let error = parse(text).expect_err(words);
    let shown = error.to_string();
    assert!(matches!(error, XmlError::Malformed(_)), "{shown}");
    assert!(shown.contains(words), "'{words}' is not in: {shown}");
    assert!(shown.len() < 1000, "an error of {} bytes", shown.len());
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{words}: {:?}",
        start.elapsed()
    );
    assert_eq!(ApiError::from(error).code, ErrorCode::XmlDetail);
}

/// Time that this thread has had a processor for: how long a busy machine takes says nothing.
struct Processor(Duration);

impl Processor {
    fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Self(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0 - self.0
    }
}

#[test]
fn not_well_formed() {
    for text in [
        "",
        " ",
        "network",
        "<",
        "<network",
        "<network>",
        "<network><name>n</network></name>",
        "<network><name>n</name></network><network/>",
        "<network a='1' a='2'><name>n</name></network>",
        "<network><name>\0</name></network>",
        "<network><name>&#0;</name></network>",
        "<network><name>&nothing;</name></network>",
        "<network><name>&#xd800;</name></network>",
        "<network><name>n</name><mtu size='&#1114112;'/></network>",
        "<network><x:y/></network>",
        "<!-- <network/>",
        "<![CDATA[",
        "</network>",
    ] {
        unreadable(text, "cannot be read");
    }
}

#[test]
fn no_entities_and_no_document_type() {
    let laughs = r#"<?xml version="1.0"?>
<!DOCTYPE lolz [
 <!ENTITY lol "lol">
 <!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">
 <!ENTITY lol3 "&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;&lol2;">
]>
<network><name>&lol3;</name></network>"#;
    unreadable(laughs, "declarations");
    for text in [
        "<!DOCTYPE network [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><network><name>&a;</name></network>",
        "<!DOCTYPE network",
        "<!DOCTYPE network SYSTEM 'a",
    ] {
        unreadable(text, "declarations");
    }
    for text in [
        "<network><!DOCTYPE network><name>n</name></network>",
        "<!DOCTYPE network><!DOCTYPE network><network><name>n</name></network>",
        "<!ENTITY a 'b'><network><name>n</name></network>",
    ] {
        unreadable(text, "document type");
    }
    unreadable(
        "<!DOCTYPE network><network><name>&a;</name></network>",
        "cannot be read",
    );
    // Nothing of it is read.
    for doctype in [
        "<!DOCTYPE network>",
        "<!DOCTYPE network SYSTEM 'file:///etc/passwd'>",
        "<?xml version='1.0'?>\n<!-- [ --><!DOCTYPE network PUBLIC '-//a[//b>' \"http://x/y.dtd\">",
    ] {
        let text = format!("{doctype}<network><name>n</name></network>");
        assert_eq!(parse(&text).unwrap().name, "n", "{doctype}");
    }
    // Inside a comment it is only text.
    assert!(parse("<!-- <!DOCTYPE x> <a><a> --><network><name>n</name></network>").is_ok());
}

#[test]
fn deep() {
    let deep = format!("<network><name>n</name>{}", "<a>".repeat(100_000));
    unreadable(&deep, "nested");
    let closed = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    unreadable(&closed, "nested");
    let quoted = "<a b='>' c=\"/>\">".repeat(20_000);
    unreadable(&quoted, "nested");

    // As deep as is allowed, where depth is walked most: in metadata.
    let levels = 125;
    let inner = format!("{}{}", "<m:a>".repeat(levels), "</m:a>".repeat(levels));
    let text = network(&format!("<metadata xmlns:m='urn:m'>{inner}</metadata>"));
    assert!(canonical(&text).matches("<m:a").count() == levels);
}

#[test]
fn long() {
    unreadable(&" ".repeat(10 << 20), "bytes");
    unreadable(&network(&"x".repeat(10 << 20)), "bytes");
    let nodes = network(&"<a/>".repeat(240_000));
    unreadable(&nodes, "cannot be read");
}

#[test]
fn wide() {
    let attributes: String = (0..90_000).map(|i| format!(" a{i}=''")).collect();
    unreadable(&format!("<network{attributes}/>"), "attributes");
    let namespaces: String = (0..30_000)
        .map(|i| format!("<a xmlns:n{i}='u{i}'/>"))
        .collect();
    unreadable(&network(&namespaces), "namespace");
}

#[test]
fn many_elements_are_read_in_time() {
    let start = Processor::now();
    let interfaces: String = (0..40_000)
        .map(|i| format!("<interface dev='e{i}'/>"))
        .collect();
    let text = network(&format!("<forward mode='vepa'>{interfaces}</forward>"));
    assert_eq!(
        parse(&text).unwrap().forward.unwrap().interfaces.len(),
        40_000
    );

    let ips = "<ip address='10.0.0.1'/>".repeat(10_000);
    let route = "<route address='0.0.0.0' gateway='11.0.0.1'/>".repeat(10_000);
    let last = "<ip address='11.0.0.2'/>";
    assert_eq!(
        parse(&network(&format!("{ips}{last}{route}")))
            .unwrap()
            .routes
            .len(),
        10_000
    );
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn terminal_codes_stay_out_of_messages() {
    let error = parse("<network><name>\u{9b}31m</name><ip address='\u{9b}1m'/></network>");
    let shown = error.unwrap_err().to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");

    for bad in ['\0', '\x1b', '\u{9b}'] {
        for text in [format!("<network{bad}>"), format!("<network a{bad}='1'/>")] {
            let shown = parse(&text).unwrap_err().to_string();
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
}
