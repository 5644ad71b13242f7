//! What networks and interfaces can be called.

use super::error::XmlError;

/// Longest name of a network: it names files, with a suffix behind it.
const MAX_NAME: usize = 200;
/// Longest name of an interface (IFNAMSIZ less its end).
const MAX_INTERFACE: usize = 15;

/// Can a network of this name be kept in files?
pub fn check_name(name: &str) -> Result<(), XmlError> {
    let refuse = |why: &str| {
        let shown: String = name.escape_debug().take(MAX_NAME).collect();
        Err(XmlError::Invalid(format!("network name '{shown}' {why}")))
    };
    if let Some(c) = name.chars().find(|c| matches!(c, '/' | '\n')) {
        Err(XmlError::Name(c))
    } else if name.is_empty() || name == "." || name == ".." {
        refuse("cannot be the name of a file")
    } else if name.chars().any(char::is_control) {
        refuse("contains a control character")
    } else if name.len() > MAX_NAME {
        refuse(&format!("is longer than {MAX_NAME} bytes"))
    } else {
        Ok(())
    }
}

/// Is this a name the kernel gives to an interface? It refuses most of the others (`dev_valid_name`),
/// and would replace `%` by a number of its own choosing.
pub fn check_interface_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name == "." || name == ".." {
        Err("is not the name of an interface")
    } else if name.len() > MAX_INTERFACE {
        Err("is longer than 15 bytes")
    } else if name.contains(|c: char| "/:%".contains(c) || c.is_whitespace() || c.is_control()) {
        Err("contains '/', ':', '%', a blank or a control character")
    } else if name.contains(['\u{fffe}', '\u{ffff}']) {
        Err("contains a character that XML has not")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_names_are_refused_before_the_kernel_is_asked() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:b",
            "virbr%d",
            "sixteen-bytes-xx",
            "a\tb",
        ] {
            check_interface_name(name).unwrap_err();
        }
        for name in ["virbr0", "br.100", "fifteen-bytes-x", "bé"] {
            check_interface_name(name).unwrap();
        }
    }
}
