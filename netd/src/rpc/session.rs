//! What a client has said of itself, and what it may do.

use std::fmt;

use crate::api::{ApiError, ErrorCode, ErrorDomain};
use crate::rpc::access::{Access, Action, Rights};
use crate::rpc::identity::Identity;
use crate::rpc::limits::Limits;
use crate::rpc::message::MESSAGE_MAX;
use crate::rpc::peer::Peer;
use crate::rpc::procedures::{
    Access as Effect, IdentityArgs, NetdProcedure, OPEN_READ_ONLY, OpenArgs, Procedure, Scope,
};
use crate::rpc::remote_error::RemoteError;

/// The one URI that is opened here.
pub const URI: &str = "network:///system";

/// AUTH_LIST: the client need not prove anything.
const AUTH_NONE: i32 = 0;
/// AUTH_LIST: polkit is asked.
const AUTH_POLKIT: i32 = 2;

/// One client of the server.
#[derive(Debug)]
pub(super) struct Session {
    peer: Peer,
    /// Is its socket the one over which nobody changes anything?
    read_only: bool,
    rights: Rights,
    opened: Option<Opened>,
    /// Whom it speaks for.
    identity: Option<Identity>,
}

/// State after OPEN.
#[derive(Clone, Copy, Debug)]
struct Opened {
    read_only: bool,
}

impl Session {
    /// `peer` has connected to a socket of that rule.
    pub fn new(peer: Peer, access: Access) -> Self {
        Self {
            rights: access.rights(&peer),
            read_only: access.read_only,
            peer,
            opened: None,
            identity: None,
        }
    }

    /// Who connected.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Has it opened the connection?
    pub fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// The longest message that it may send now.
    pub fn limit(&self, limits: &Limits) -> usize {
        match self.opened {
            None => limits.before_open,
            Some(Opened { read_only: true }) => limits.read_only,
            Some(Opened { read_only: false }) => MESSAGE_MAX,
        }
    }

    /// The answer to AUTH_LIST.
    pub fn auth_list(&self) -> i32 {
        match self.rights {
            Rights::Ask(_) => AUTH_POLKIT,
            Rights::Nothing | Rights::Read | Rights::Write => AUTH_NONE,
        }
    }

    /// What polkit is to be asked for.
    pub fn asks(&self) -> Result<Action, ApiError> {
        match self.rights {
            Rights::Ask(action) => Ok(action),
            Rights::Nothing | Rights::Read | Rights::Write => Err(ApiError::new(
                ErrorCode::AuthFailed,
                "polkit is not asked about this client; AUTH_LIST says so",
            )
            .in_domain(ErrorDomain::Rpc)),
        }
    }

    /// polkit said yes.
    pub fn grant(&mut self, action: Action) {
        self.rights = action.rights();
    }

    /// May it make such a call now?
    pub fn admit(&self, procedure: Procedure) -> Result<(), RemoteError> {
        if !matches!(procedure, Procedure::AuthList | Procedure::AuthPolkit) {
            self.authenticated()?;
        }
        match procedure.scope() {
            Scope::Handshake => Ok(()),
            Scope::Connection | Scope::Agent => {
                self.effect(procedure.access(), procedure.function())
            }
        }
    }

    /// May it make such a call of netd's own program? What that tells of guests' traffic is for those
    /// who may change it.
    pub fn admit_netd(&self, procedure: NetdProcedure) -> Result<(), RemoteError> {
        self.authenticated()?;
        self.effect(procedure.access(), procedure.function())?;
        match self.rights {
            Rights::Write => Ok(()),
            Rights::Nothing | Rights::Read | Rights::Ask(_) => Err(ApiError::new(
                ErrorCode::AccessDenied,
                format_args!(
                    "'{}' of netd is for those who may change networks",
                    procedure.function()
                ),
            )
            .into()),
        }
    }

    fn authenticated(&self) -> Result<(), RemoteError> {
        match self.rights {
            Rights::Ask(_) => Err(RemoteError::rpc("authentication required")),
            Rights::Nothing | Rights::Read | Rights::Write => Ok(()),
        }
    }

    fn effect(&self, effect: Effect, function: &str) -> Result<(), RemoteError> {
        let opened = self.opened()?;
        match effect {
            Effect::Write if opened.read_only => {
                let detail = format!("read only access prevents {function}");
                Err(ApiError::new(ErrorCode::OperationDenied, detail).into())
            }
            Effect::Read | Effect::Write => Ok(()),
        }
    }

    /// An error until the connection is open.
    pub fn check_open(&self) -> Result<(), RemoteError> {
        self.opened().map(drop)
    }

    fn opened(&self) -> Result<Opened, RemoteError> {
        self.opened.ok_or_else(|| {
            ApiError::internal("connection not open")
                .in_domain(ErrorDomain::Rpc)
                .into()
        })
    }

    /// OPEN.
    pub fn open(&mut self, args: OpenArgs) -> Result<(), RemoteError> {
        if self.opened.is_some() {
            return Err(ApiError::internal("connection already open")
                .in_domain(ErrorDomain::Rpc)
                .into());
        }
        let no_driver = |uri: &str| Err(ApiError::new(ErrorCode::NoConnect, uri).into());
        let Some(uri) = args.name.filter(|name| !name.is_empty()) else {
            return no_driver("<null>");
        };
        // Clients leave parameters they do not know in the URI.
        let without_query = uri.split_once('?').map_or(uri.as_str(), |(uri, _)| uri);
        let Some(path) = without_query.strip_prefix("network://") else {
            return no_driver(&uri);
        };
        if without_query != URI {
            return Err(ApiError::internal(format_args!(
                "unexpected network URI path '{path}', try {URI}"
            ))
            .in_domain(ErrorDomain::None)
            .into());
        }
        let may_write = match self.rights {
            Rights::Write => true,
            Rights::Read => false,
            Rights::Nothing | Rights::Ask(_) => {
                return Err(ApiError::new(
                    ErrorCode::AuthFailed,
                    format_args!(
                        "user {} may not use this socket; see [sockets] in netd.toml",
                        self.peer.uid
                    ),
                )
                .in_domain(ErrorDomain::Rpc)
                .into());
            }
        };
        self.opened = Some(Opened {
            read_only: self.read_only || !may_write || args.flags & OPEN_READ_ONLY != 0,
        });
        Ok(())
    }

    /// SET_IDENTITY: a daemon of root's tells whom it speaks for. Others may say what they like.
    pub fn set_identity(&mut self, args: IdentityArgs) -> Result<(), ApiError> {
        let identity = Identity::new(args)?;
        if self.peer.is_owner() {
            self.identity = Some(identity);
        }
        Ok(())
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)?;
        match &self.identity {
            Some(identity) => write!(f, " (for {identity})"),
            None => Ok(()),
        }
    }
}
