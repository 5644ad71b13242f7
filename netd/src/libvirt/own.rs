//! netd's networks, as its agent tells of them.

use anyhow::Result;

use super::places::Places;
use super::step::{Definition, RunningNetwork};
use crate::model;
use crate::rpc::Client;

/// One of netd's networks.
#[derive(Debug)]
pub struct OwnNetwork {
    /// Its definition; none for a transient one.
    pub definition: Option<Definition>,
    /// What runs.
    pub running: Option<RunningNetwork>,
}

impl OwnNetwork {
    /// Its definition, if this is its name.
    #[must_use]
    pub fn definition(&self, name: &str) -> Option<&Definition> {
        let definition = self.definition.as_ref();
        definition.filter(|definition| definition.name == name)
    }
}

/// All networks of the agent.
///
/// # Errors
/// It does not answer.
pub async fn read(client: &mut Client, places: &Places) -> Result<Vec<OwnNetwork>> {
    let mut networks = Vec::new();
    for network in client.list(0).await? {
        let name = network.name.clone();
        let definition = match client.is_persistent(&network).await? {
            true => Some(Definition {
                name: name.clone(),
                xml: client.xml(&network, true).await?,
                autostart: client.autostart(&network).await?,
            }),
            false => None,
        };
        let running = match client.is_active(&network).await? {
            true => {
                let xml = client.xml(&network, false).await?;
                let mut ports = Vec::new();
                for port in client.ports(&network).await? {
                    let uuid = port.uuid.to_string();
                    ports.push((uuid, client.port_xml(port).await?));
                }
                let network = model::parse(&xml)?;
                Some(RunningNetwork::new(&network, ports, places.service()?))
            }
            false => None,
        };
        networks.push(OwnNetwork {
            definition,
            running,
        });
    }
    Ok(networks)
}
