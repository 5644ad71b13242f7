//! Values of a definition on their way into a line for dnsmasq, which runs as root while it reads these
//! files: a value that could start a line of its own could name a script to run.

use std::net::Ipv4Addr;
use std::path::Path;

/// A value that cannot be handed to dnsmasq.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{element}: {problem}")]
pub struct ConfigError {
    /// Which element or attribute.
    pub element: String,
    /// What is wrong with it and what is allowed.
    pub problem: String,
}

pub(super) type Result<T> = std::result::Result<T, ConfigError>;

pub(super) fn error(element: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError {
        element: element.into(),
        problem: problem.into(),
    }
}

/// No control characters: nothing that ends a line.
pub(super) fn printable(element: &str, value: &str) -> Result<()> {
    if value.chars().any(char::is_control) {
        return Err(error(
            element,
            format!("{value:?} holds a line break or another control character"),
        ));
    }
    Ok(())
}

/// One field of a line: nothing at which dnsmasq ends a field, a comment or a quotation.
pub(super) fn word<'a>(element: &str, value: &'a str) -> Result<&'a str> {
    let splits = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ',' | '"' | '\\');
    if value.is_empty() || value.contains(splits) {
        return Err(error(
            element,
            format!(
                "{value:?} must not be empty nor hold a blank, comma, quote, backslash or line break"
            ),
        ));
    }
    Ok(value)
}

pub(super) fn domain_name<'a>(element: &str, value: &'a str) -> Result<&'a str> {
    if value.contains('/') {
        return Err(error(element, format!("{value:?} must not hold '/'")));
    }
    word(element, value)
}

pub(super) fn host_name<'a>(element: &str, value: &'a str) -> Result<&'a str> {
    if value.len() > 255 || value.contains('#') {
        return Err(error(
            element,
            "must not be longer than 255 characters nor hold '#'",
        ));
    }
    word(element, value)
}

/// A name among the fields of a reservation, whose kind dnsmasq guesses from how it looks.
pub(super) fn dhcp_name(value: &str) -> Result<&str> {
    const ELEMENT: &str = "<host name>";
    let number = value
        .strip_suffix(['s', 'm', 'h', 'd', 'w'])
        .unwrap_or(value);
    let is_time = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let is_keyword = matches!(value, "ignore" | "infinite");
    if is_time
        || is_keyword
        || value.parse::<Ipv4Addr>().is_ok()
        || value.contains([':', '[', ']', '*'])
    {
        return Err(error(
            ELEMENT,
            format!("{value:?} means something else than a name to dnsmasq"),
        ));
    }
    host_name(ELEMENT, value)
}

pub(super) fn hardware_address(value: &str) -> Result<&str> {
    let allowed = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'-');
    if value.is_empty() || value.len() > 64 || !value.bytes().all(allowed) {
        return Err(error(
            "<host mac>",
            format!("{value:?} is not a MAC address"),
        ));
    }
    Ok(value)
}

/// The network's name as part of a file name.
pub(super) fn file_name(name: &str) -> Result<&str> {
    printable("<name>", name)?;
    if name.is_empty() || name.contains('/') {
        return Err(error("<name>", "must not be empty nor hold '/'"));
    }
    Ok(name)
}

/// A path as dnsmasq reads it: in quotation marks when it holds anything dnsmasq would interpret.
pub(super) fn path(element: &str, path: &Path) -> Result<String> {
    let Some(text) = path.to_str().filter(|text| !text.is_empty()) else {
        return Err(error(element, format!("{path:?} is no path in UTF-8")));
    };
    printable(element, text)?;
    let plain = |c: char| c.is_alphanumeric() || "/._+-:@%=~&;'()".contains(c);
    if text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!("\"{escaped}\""))
}
