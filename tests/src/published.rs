//! Published ports as tests write them.

/// One `<netd:portForward>`.
#[must_use]
pub fn forward(proto: &str, scope: &str, guest: &str, ranges: &str) -> String {
    format!("<netd:portForward proto='{proto}' {scope} guest='{guest}'>{ranges}</netd:portForward>")
}

/// A range that goes to the guest's ports from `to` on.
#[must_use]
pub fn range(start: u16, end: u16, to: u16) -> String {
    format!("<netd:range start='{start}' end='{end}' to='{to}'/>")
}

/// The metadata of a definition with these forwards.
#[must_use]
pub fn forwards(forwards: &str) -> String {
    format!(
        "<metadata><netd:forwards xmlns:netd='urn:netd:network:1'>{forwards}</netd:forwards>\
         </metadata>"
    )
}
