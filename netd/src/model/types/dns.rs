//! `<dns>` and `<domain>`.

use std::net::IpAddr;

/// `<domain>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// `name`.
    pub name: Option<String>,
    /// `localOnly`.
    pub local_only: Option<bool>,
    /// `register`.
    pub register: Option<bool>,
}

/// `<dns>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// `enable`; absent means yes.
    pub enable: Option<bool>,
    /// `forwardPlainNames`.
    pub forward_plain_names: Option<bool>,
    /// `<forwarder>` list.
    pub forwarders: Vec<DnsForwarder>,
    /// `<txt>` list.
    pub txts: Vec<DnsTxt>,
    /// `<srv>` list.
    pub srvs: Vec<DnsSrv>,
    /// `<host>` list.
    pub hosts: Vec<DnsHost>,
}

/// `<forwarder>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsForwarder {
    /// `domain`.
    pub domain: Option<String>,
    /// `addr`.
    pub addr: Option<IpAddr>,
}

/// `<txt>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsTxt {
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: Option<String>,
}

/// `<srv>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSrv {
    /// `service`.
    pub service: String,
    /// `protocol`.
    pub protocol: String,
    /// `domain`.
    pub domain: Option<String>,
    /// `target`.
    pub target: Option<String>,
    /// `port`.
    pub port: Option<u16>,
    /// `priority`.
    pub priority: Option<u16>,
    /// `weight`.
    pub weight: Option<u16>,
}

/// `<host ip>` of `<dns>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHost {
    /// `ip`.
    pub ip: IpAddr,
    /// `<hostname>` list, never empty.
    pub hostnames: Vec<String>,
}
