//! The error a caller of the agent sees, with libvirt's numbers, so that every client words it
//! the way it always did.

use crate::model::{PortError, UpdateError, XmlError};

/// libvirt's error codes that netd uses (`virErrorNumber`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ErrorCode {
    /// VIR_ERR_INTERNAL_ERROR
    Internal = 1,
    /// VIR_ERR_NO_SUPPORT
    NoSupport = 3,
    /// VIR_ERR_NO_CONNECT
    NoConnect = 5,
    /// VIR_ERR_INVALID_ARG
    InvalidArg = 8,
    /// VIR_ERR_OPERATION_FAILED
    OperationFailed = 9,
    /// VIR_ERR_NO_NAME: a definition without a name
    NoName = 21,
    /// VIR_ERR_XML_ERROR
    Xml = 27,
    /// VIR_ERR_XML_DETAIL: not well formed
    XmlDetail = 35,
    /// VIR_ERR_OPERATION_DENIED: a change over a read-only connection
    OperationDenied = 29,
    /// VIR_ERR_SYSTEM_ERROR
    System = 38,
    /// VIR_ERR_RPC
    Rpc = 39,
    /// VIR_ERR_NO_NETWORK
    NoNetwork = 43,
    /// VIR_ERR_INVALID_MAC
    InvalidMac = 44,
    /// VIR_ERR_AUTH_FAILED
    AuthFailed = 45,
    /// VIR_ERR_OPERATION_INVALID
    OperationInvalid = 55,
    /// VIR_ERR_CONFIG_UNSUPPORTED
    ConfigUnsupported = 67,
    /// VIR_ERR_HOOK_SCRIPT_FAILED
    HookScriptFailed = 70,
    /// VIR_ERR_ARGUMENT_UNSUPPORTED
    ArgumentUnsupported = 74,
    /// VIR_ERR_AUTH_CANCELLED
    AuthCancelled = 79,
    /// VIR_ERR_OPERATION_UNSUPPORTED
    OperationUnsupported = 84,
    /// VIR_ERR_ACCESS_DENIED
    AccessDenied = 88,
    /// VIR_ERR_XML_INVALID_SCHEMA: an element or attribute that nobody knows
    XmlInvalidSchema = 92,
    /// VIR_ERR_AUTH_UNAVAILABLE: nobody is there who could be asked
    AuthUnavailable = 94,
    /// VIR_ERR_NETWORK_PORT_EXIST
    NetworkPortExist = 106,
    /// VIR_ERR_NO_NETWORK_PORT
    NoNetworkPort = 107,
    /// VIR_ERR_NO_NETWORK_METADATA
    NoNetworkMetadata = 111,
}

/// Which part of libvirt speaks (`virErrorDomain`); libvirt-python shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ErrorDomain {
    /// None in particular.
    None = 0,
    /// The code that reads XML.
    Xml = 5,
    /// The protocol itself.
    Rpc = 7,
    /// The network driver.
    Network = 19,
    /// "Not supported by the connection driver" comes from here.
    Domain = 20,
    /// What decides about access.
    Access = 55,
    /// What asks polkit.
    Polkit = 60,
}

/// What went wrong, on which object, and what to do, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// libvirt's number for this kind of error.
    pub code: ErrorCode,
    /// Which part of libvirt would say so.
    pub domain: ErrorDomain,
    /// The complete text a user sees, the code's customary prefix included.
    pub message: String,
    /// The function of libvirt and the argument of it that is wrong, where libvirt tells those.
    pub argument: Option<(&'static str, &'static str)>,
}

impl ErrorCode {
    /// The words libvirt's clients expect before the detail.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Internal => "internal error: ",
            Self::NoSupport => "this function is not supported by the connection driver: ",
            Self::NoConnect => "no connection driver available for ",
            Self::InvalidArg => "invalid argument: ",
            Self::OperationFailed => "operation failed: ",
            Self::Xml => "XML error: ",
            Self::OperationDenied => "operation forbidden: ",
            Self::NoNetwork => "Network not found: ",
            Self::OperationInvalid => "Requested operation is not valid: ",
            Self::OperationUnsupported => "Operation not supported: ",
            Self::ConfigUnsupported => "unsupported configuration: ",
            Self::XmlInvalidSchema => "XML document failed to validate against schema: ",
            Self::NoNetworkMetadata => "metadata not found: ",
            Self::NoNetworkPort => "network port not found: ",
            Self::NetworkPortExist => "network port ",
            Self::HookScriptFailed => "Hook script execution failed: ",
            Self::ArgumentUnsupported => "argument unsupported: ",
            Self::AuthFailed => "authentication failed: ",
            Self::AuthCancelled => "authentication cancelled: ",
            Self::AuthUnavailable => "authentication unavailable: ",
            Self::AccessDenied => "access denied: ",
            Self::InvalidMac => "invalid MAC address: ",
            Self::NoName => "missing name information",
            Self::XmlDetail | Self::System | Self::Rpc => "",
        }
    }

    /// The part of libvirt that has most errors of this kind.
    fn domain(self) -> ErrorDomain {
        match self {
            Self::Rpc => ErrorDomain::Rpc,
            Self::XmlInvalidSchema => ErrorDomain::Xml,
            Self::NoConnect => ErrorDomain::None,
            Self::NoSupport => ErrorDomain::Domain,
            Self::AccessDenied => ErrorDomain::Access,
            _ => ErrorDomain::Network,
        }
    }

    /// The words they expect behind it.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::NetworkPortExist => " exists already",
            _ => "",
        }
    }
}

impl ApiError {
    /// An error of the given kind; the prefix is put before `detail`, and what libvirt puts behind it.
    pub fn new(code: ErrorCode, detail: impl std::fmt::Display) -> Self {
        let (prefix, suffix) = (code.prefix(), code.suffix());
        Self::verbatim(code, format!("{prefix}{detail}{suffix}"))
    }

    /// An error whose whole text is `message`, without the code's prefix.
    pub fn verbatim(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            domain: code.domain(),
            message: message.into(),
            argument: None,
        }
    }

    /// The same, said by another part of libvirt.
    #[must_use]
    pub fn in_domain(self, domain: ErrorDomain) -> Self {
        Self { domain, ..self }
    }

    /// A call of this function of libvirt's with flags that nobody knows.
    #[must_use]
    pub fn unknown_flags(flags: u32, function: &'static str) -> Self {
        let message = format!("unsupported flags (0x{flags:x}) in function {function}");
        Self {
            argument: Some((function, "flags")),
            ..Self::verbatim(ErrorCode::InvalidArg, message)
        }
    }

    /// A failure that is nobody's input: `internal error: …`.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::Internal, detail)
    }
}

impl From<XmlError> for ApiError {
    fn from(error: XmlError) -> Self {
        let (code, domain) = match error {
            XmlError::Malformed(_) | XmlError::Record(_) => {
                (ErrorCode::XmlDetail, ErrorDomain::Network)
            }
            XmlError::Invalid(_) => (ErrorCode::Xml, ErrorDomain::Network),
            XmlError::Unsupported(_) => (ErrorCode::ConfigUnsupported, ErrorDomain::Network),
            XmlError::Value(_) => (ErrorCode::Xml, ErrorDomain::Xml),
            XmlError::Range(_) => (ErrorCode::Internal, ErrorDomain::None),
            XmlError::Address(_) => (ErrorCode::System, ErrorDomain::None),
            XmlError::Schema(_) => (ErrorCode::XmlInvalidSchema, ErrorDomain::Xml),
            XmlError::NoName => (ErrorCode::NoName, ErrorDomain::Network),
            XmlError::Name(_) => (ErrorCode::XmlDetail, ErrorDomain::Xml),
            XmlError::Uuid => (ErrorCode::Internal, ErrorDomain::Network),
        };
        Self::new(code, error).in_domain(domain)
    }
}

impl From<PortError> for ApiError {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Xml(error) => error.into(),
            PortError::Malformed(_) => Self::new(ErrorCode::XmlDetail, error),
            PortError::Internal(detail) => Self::internal(detail),
            PortError::Unsupported(detail) => Self::new(ErrorCode::OperationUnsupported, detail),
            PortError::Overcommitted(detail) => Self::new(ErrorCode::OperationInvalid, detail),
        }
    }
}

impl From<UpdateError> for ApiError {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::Xml(error) => error.into(),
            UpdateError::Invalid(detail) => Self::new(ErrorCode::OperationInvalid, detail),
            UpdateError::Unsupported(detail) => Self::new(ErrorCode::OperationUnsupported, detail),
        }
    }
}
