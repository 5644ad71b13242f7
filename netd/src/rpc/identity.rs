//! Whom a daemon speaks for that forwards its own clients' calls (SET_IDENTITY).

use std::fmt;

use crate::api::{ApiError, ErrorCode, ErrorDomain};
use crate::rpc::procedures::{IdentityArgs, TypedParameter, TypedValue};

/// What an identity may consist of, and of which type each is.
const PARAMETERS: &[(&str, &str)] = &[
    ("user-name", "string"),
    ("unix-user-id", "ullong"),
    ("group-name", "string"),
    ("unix-group-id", "ullong"),
    ("process-id", "llong"),
    ("process-time", "ullong"),
    ("sasl-user-name", "string"),
    ("x509-distinguished-name", "string"),
    ("selinux-context", "string"),
    ("system.token", "string"),
];

/// Whom a daemon speaks for, as far as the log needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    user: Option<String>,
    uid: Option<u64>,
    pid: Option<i64>,
}

impl Identity {
    /// What the arguments of SET_IDENTITY say.
    ///
    /// # Errors
    /// Those of libvirt's daemon: a parameter that there is not, that has another type, or twice.
    pub fn new(args: IdentityArgs) -> Result<Self, ApiError> {
        if args.flags != 0 {
            return Err(ApiError::unknown_flags(
                args.flags,
                "remoteDispatchConnectSetIdentity",
            ));
        }
        let mut identity = Self::default();
        let mut seen = Vec::new();
        for TypedParameter { field, value } in args.parameters.0 {
            check(&field, &value)?;
            if seen.contains(&field) {
                let detail = format!("parameter '{field}' occurs multiple times");
                return Err(wrong(ErrorCode::InvalidArg, detail));
            }
            match (field.as_str(), value) {
                ("user-name", TypedValue::String(user)) => identity.user = Some(user),
                ("unix-user-id", TypedValue::Ullong(uid)) => identity.uid = Some(uid),
                ("process-id", TypedValue::Llong(pid)) => identity.pid = Some(pid),
                _ => {}
            }
            seen.push(field);
        }
        Ok(identity)
    }
}

fn check(field: &str, value: &TypedValue) -> Result<(), ApiError> {
    let Some((_, expected)) = PARAMETERS.iter().find(|(name, _)| *name == field) else {
        let detail = format!("parameter '{field}' not supported");
        return Err(wrong(ErrorCode::ArgumentUnsupported, detail));
    };
    let actual = value.type_name();
    if actual == *expected {
        return Ok(());
    }
    let detail = format!("invalid type '{actual}' for parameter '{field}', expected '{expected}'");
    Err(wrong(ErrorCode::InvalidArg, detail))
}

fn wrong(code: ErrorCode, detail: String) -> ApiError {
    ApiError::new(code, detail).in_domain(ErrorDomain::None)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Control characters could make lines of their own.
        let user = self.user.as_deref().unwrap_or("?");
        write!(f, "user {}", user.escape_debug())?;
        if let Some(uid) = self.uid {
            write!(f, ", uid {uid}")?;
        }
        if let Some(pid) = self.pid {
            write!(f, ", pid {pid}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::xdr::List;

    fn args(parameters: &[(&str, TypedValue)]) -> IdentityArgs {
        let parameters = parameters.iter().map(|(field, value)| TypedParameter {
            field: (*field).to_owned(),
            value: value.clone(),
        });
        IdentityArgs {
            parameters: List(parameters.collect()),
            flags: 0,
        }
    }

    fn text(value: &str) -> TypedValue {
        TypedValue::String(value.to_owned())
    }

    #[test]
    fn what_a_daemon_tells_is_understood() {
        let identity = Identity::new(args(&[
            ("unix-group-id", TypedValue::Ullong(100)),
            ("unix-user-id", TypedValue::Ullong(1000)),
            ("user-name", text("alice\n")),
            ("process-id", TypedValue::Llong(17)),
            ("process-time", TypedValue::Ullong(99)),
            ("group-name", text("users")),
            ("system.token", text("0123")),
        ]));
        let identity = identity.unwrap().to_string();
        assert_eq!(identity, "user alice\\n, uid 1000, pid 17");
        assert_eq!(
            Identity::new(args(&[])).unwrap(),
            Identity::default(),
            "nothing is told"
        );
    }

    #[test]
    fn what_is_wrong_has_libvirts_codes() {
        for (parameters, code, words) in [
            (
                &[("shoe-size", TypedValue::Int(44))][..],
                74,
                "argument unsupported: parameter 'shoe-size' not supported",
            ),
            (
                &[("unix-user-id", text("1000"))],
                8,
                "invalid argument: invalid type 'string' for parameter 'unix-user-id', \
                 expected 'ullong'",
            ),
            (
                &[("user-name", text("a")), ("user-name", text("b"))],
                8,
                "invalid argument: parameter 'user-name' occurs multiple times",
            ),
        ] {
            let error = Identity::new(args(parameters)).unwrap_err();
            assert_eq!(error.code as i32, code);
            assert_eq!(error.message, words);
        }
    }
}
