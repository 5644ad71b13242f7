//! Procedures of libvirt's remote program that other drivers answer, with what libvirtd 12.8 says of them on a
//! connection to networks: which of its parts speaks (`virErrorDomain`), and the function that the network
//! driver has not. Calls about events of other drivers are refused for their arguments first.

use bytes::Bytes;

use crate::api::{ApiError, ErrorCode, ErrorDomain};
use crate::rpc::answer::arguments;
use crate::rpc::remote_error::RemoteError;

/// The error about a procedure that is not spoken here, with such arguments.
#[must_use]
pub fn not_here(number: i32, payload: Bytes) -> RemoteError {
    match about_events(number, payload) {
        Ok(()) => not_spoken(number),
        Err(error) => error,
    }
}

fn not_spoken(number: i32) -> RemoteError {
    match OTHERS.binary_search_by_key(&number, |row| row.0) {
        Ok(place) => {
            let (_, domain, function) = OTHERS[place];
            RemoteError {
                domain,
                ..ApiError::new(ErrorCode::NoSupport, function).into()
            }
        }
        // Clients take the first two words for "not supported".
        Err(_) => RemoteError::rpc(format!("unknown procedure: {number}")),
    }
}

/// Refuses a call about an event that there is not, or that nobody can have registered for.
fn about_events(number: i32, payload: Bytes) -> Result<(), RemoteError> {
    let refuse = |detail: String| {
        Err(ApiError::internal(detail)
            .in_domain(ErrorDomain::Rpc)
            .into())
    };
    if let Some((_, count, what)) = KINDS.iter().find(|row| row.0 == number) {
        let kind: i32 = arguments(payload.clone())?;
        if !(0..*count).contains(&kind) {
            return refuse(format!("unsupported {what} ID {kind}"));
        }
    }
    let Some((_, what)) = DEREGISTRATIONS.iter().find(|row| row.0 == number) else {
        return Ok(());
    };
    let id: i32 = match number {
        // It has no argument: the one event that there was at first.
        106 => 0,
        _ => arguments(payload)?,
    };
    refuse(format!("{what} {id} not registered"))
}

/// Calls that begin with the kind of an event: number, how many kinds it knows, and libvirt's words for
/// them. 167 and 168 do not know the newer ones.
const KINDS: &[(i32, i32, &str)] = &[
    (167, 16, "event"),
    (168, 16, "event"),
    (316, 30, "event"),
    (368, 2, "storage pool event"),
    (374, 2, "node device event"),
    (380, 2, "secret event"),
];

/// Calls that take a registration back, with libvirt's words for it; for 381, which is about secrets, too.
const DEREGISTRATIONS: &[(i32, &str)] = &[
    (106, "domain event"),
    (168, "domain event"),
    (317, "domain event callback"),
    (369, "storage pool event callback"),
    (375, "node device event callback"),
    (381, "node device event callback"),
];

/// Number, domain and function, by number.
#[rustfmt::skip]
const OTHERS: &[(i32, i32, &str)] = &[
    (5, 20, "virConnectGetMaxVcpus"),
    (6, 20, "virNodeGetInfo"),
    (8, 20, "virDomainAttachDevice"),
    (9, 20, "virDomainCreate"),
    (10, 20, "virDomainCreateXML"),
    (11, 20, "virDomainDefineXML"),
    (12, 20, "virDomainDestroy"),
    (13, 20, "virDomainDetachDevice"),
    (14, 20, "virDomainGetXMLDesc"),
    (15, 20, "virDomainGetAutostart"),
    (16, 20, "virDomainGetInfo"),
    (17, 20, "virDomainGetMaxMemory"),
    (18, 20, "virDomainGetMaxVcpus"),
    (19, 20, "virDomainGetOSType"),
    (21, 20, "virConnectListDefinedDomains"),
    (22, 20, "virDomainLookupByID"),
    (23, 20, "virDomainLookupByName"),
    (24, 20, "virDomainLookupByUUID"),
    (25, 20, "virConnectNumOfDefinedDomains"),
    (27, 20, "virDomainReboot"),
    (28, 20, "virDomainResume"),
    (29, 20, "virDomainSetAutostart"),
    (33, 20, "virDomainShutdown"),
    (34, 20, "virDomainSuspend"),
    (35, 20, "virDomainUndefine"),
    (37, 20, "virConnectListDomains"),
    (51, 20, "virConnectNumOfDomains"),
    (53, 20, "virDomainCoreDump"),
    (54, 20, "virDomainRestore"),
    (55, 20, "virDomainSave"),
    (56, 20, "virDomainGetSchedulerType"),
    (61, 20, "virDomainMigratePrepare"),
    (62, 20, "virDomainMigratePerform"),
    (64, 20, "virDomainBlockStats"),
    (65, 20, "virDomainInterfaceStats"),
    (71, 18, "virConnectNumOfStoragePools"),
    (72, 18, "virConnectListStoragePools"),
    (73, 18, "virConnectNumOfDefinedStoragePools"),
    (74, 18, "virConnectListDefinedStoragePools"),
    (75, 18, "virConnectFindStoragePoolSources"),
    (76, 18, "virStoragePoolCreateXML"),
    (77, 18, "virStoragePoolDefineXML"),
    (78, 18, "virStoragePoolCreate"),
    (79, 18, "virStoragePoolBuild"),
    (80, 18, "virStoragePoolDestroy"),
    (81, 18, "virStoragePoolDelete"),
    (82, 18, "virStoragePoolUndefine"),
    (83, 18, "virStoragePoolRefresh"),
    (84, 18, "virStoragePoolLookupByName"),
    (85, 18, "virStoragePoolLookupByUUID"),
    (86, 18, "virStoragePoolLookupByVolume"),
    (89, 18, "virStoragePoolGetAutostart"),
    (90, 18, "virStoragePoolSetAutostart"),
    (91, 18, "virStoragePoolNumOfVolumes"),
    (92, 18, "virStoragePoolListVolumes"),
    (93, 18, "virStorageVolCreateXML"),
    (94, 18, "virStorageVolDelete"),
    (95, 18, "virStorageVolLookupByName"),
    (96, 18, "virStorageVolLookupByKey"),
    (97, 18, "virStorageVolLookupByPath"),
    (100, 18, "virStorageVolGetPath"),
    (102, 20, "virNodeGetFreeMemory"),
    (104, 20, "virDomainMemoryPeek"),
    (105, 20, "virConnectDomainEventRegisterAny"),
    (108, 20, "virDomainMigratePrepare2"),
    (111, 22, "virNodeNumOfDevices"),
    (112, 22, "virNodeListDevices"),
    (113, 22, "virNodeDeviceLookupByName"),
    (114, 22, "virNodeDeviceGetXMLDesc"),
    (115, 22, "virNodeDeviceLookupByName"),
    (116, 22, "virNodeDeviceNumOfCaps"),
    (117, 22, "virNodeDeviceListCaps"),
    (118, 22, "virNodeDeviceDettach"),
    (119, 22, "virNodeDeviceReAttach"),
    (120, 22, "virNodeDeviceReset"),
    (121, 20, "virDomainGetSecurityLabel"),
    (122, 20, "virNodeGetSecurityModel"),
    (123, 22, "virNodeDeviceCreateXML"),
    (124, 22, "virNodeDeviceDestroy"),
    (125, 18, "virStorageVolCreateXMLFrom"),
    (126, 26, "virConnectNumOfInterfaces"),
    (127, 26, "virConnectListInterfaces"),
    (128, 26, "virInterfaceLookupByName"),
    (129, 26, "virInterfaceLookupByMACString"),
    (130, 26, "virInterfaceGetXMLDesc"),
    (131, 26, "virInterfaceDefineXML"),
    (132, 26, "virInterfaceUndefine"),
    (133, 26, "virInterfaceCreate"),
    (134, 26, "virInterfaceDestroy"),
    (135, 20, "virConnectDomainXMLFromNative"),
    (136, 20, "virConnectDomainXMLToNative"),
    (137, 26, "virConnectNumOfDefinedInterfaces"),
    (138, 26, "virConnectListDefinedInterfaces"),
    (139, 30, "virConnectNumOfSecrets"),
    (140, 30, "virConnectListSecrets"),
    (141, 30, "virSecretLookupByUUID"),
    (142, 30, "virSecretDefineXML"),
    (143, 30, "virSecretGetXMLDesc"),
    (145, 30, "virSecretGetValue"),
    (146, 30, "virSecretUndefine"),
    (147, 30, "virSecretLookupByUsage"),
    (148, 20, "virDomainMigratePrepareTunnel"),
    (150, 20, "virDomainIsActive"),
    (151, 20, "virDomainIsPersistent"),
    (158, 20, "virConnectCompareCPU"),
    (160, 20, "virDomainAttachDeviceFlags"),
    (161, 20, "virDomainDetachDeviceFlags"),
    (163, 20, "virDomainGetJobInfo"),
    (164, 20, "virDomainAbortJob"),
    (165, 18, "virStorageVolWipe"),
    (166, 20, "virDomainMigrateSetMaxDowntime"),
    (167, 20, "virConnectDomainEventRegisterAny"),
    (174, 20, "virDomainUpdateDeviceFlags"),
    (175, 33, "virNWFilterLookupByName"),
    (176, 33, "virNWFilterLookupByUUID"),
    (177, 33, "virNWFilterGetXMLDesc"),
    (178, 33, "virConnectNumOfNWFilters"),
    (179, 33, "virConnectListNWFilters"),
    (180, 33, "virNWFilterDefineXML"),
    (181, 33, "virNWFilterUndefine"),
    (182, 20, "virDomainManagedSave"),
    (183, 20, "virDomainHasManagedSaveImage"),
    (184, 20, "virDomainManagedSaveRemove"),
    (185, 35, "virDomainSnapshotCreateXML"),
    (186, 35, "virDomainSnapshotGetXMLDesc"),
    (187, 35, "virDomainSnapshotNum"),
    (188, 35, "virDomainSnapshotListNames"),
    (189, 35, "virDomainSnapshotLookupByName"),
    (190, 35, "virDomainHasCurrentSnapshot"),
    (191, 35, "virDomainSnapshotCurrent"),
    (192, 35, "virDomainRevertToSnapshot"),
    (193, 35, "virDomainSnapshotDelete"),
    (196, 20, "virDomainCreateWithFlags"),
    (198, 20, "virDomainGetMemoryParameters"),
    (200, 20, "virDomainGetVcpusFlags"),
    (201, 20, "virDomainOpenConsole"),
    (202, 20, "virDomainIsUpdated"),
    (203, 20, "virConnectGetSysinfo"),
    (206, 20, "virDomainGetBlkioParameters"),
    (207, 20, "virDomainMigrateSetMaxSpeed"),
    (208, 18, "virStorageVolUpload"),
    (209, 18, "virStorageVolDownload"),
    (210, 20, "virDomainInjectNMI"),
    (211, 20, "virDomainScreenshot"),
    (212, 20, "virDomainGetState"),
    (213, 20, "virDomainMigrateBegin3"),
    (214, 20, "virDomainMigratePrepare3"),
    (215, 20, "virDomainMigratePrepareTunnel3"),
    (216, 20, "virDomainMigratePerform3"),
    (218, 20, "virDomainMigrateConfirm3"),
    (220, 26, "virInterfaceChangeBegin"),
    (221, 26, "virInterfaceChangeCommit"),
    (222, 26, "virInterfaceChangeRollback"),
    (227, 20, "virNodeGetCPUStats"),
    (228, 20, "virNodeGetMemoryStats"),
    (229, 20, "virDomainGetControlInfo"),
    (231, 20, "virDomainUndefineFlags"),
    (232, 20, "virDomainSaveFlags"),
    (233, 20, "virDomainRestoreFlags"),
    (234, 20, "virDomainDestroyFlags"),
    (235, 20, "virDomainSaveImageGetXMLDesc"),
    (236, 20, "virDomainSaveImageDefineXML"),
    (237, 20, "virDomainBlockJobAbort"),
    (238, 20, "virDomainGetBlockJobInfo"),
    (239, 20, "virDomainBlockJobSetSpeed"),
    (240, 20, "virDomainBlockPull"),
    (242, 20, "virDomainMigrateGetMaxSpeed"),
    (243, 20, "virDomainBlockStatsFlags"),
    (244, 35, "virDomainSnapshotGetParent"),
    (245, 20, "virDomainReset"),
    (246, 35, "virDomainSnapshotNumChildren"),
    (247, 35, "virDomainSnapshotListChildrenNames"),
    (250, 20, "virNodeSuspendForDuration"),
    (251, 20, "virDomainBlockResize"),
    (253, 20, "virDomainGetBlockIoTune"),
    (255, 20, "virDomainGetNumaParameters"),
    (257, 20, "virDomainGetInterfaceParameters"),
    (258, 20, "virDomainShutdownFlags"),
    (259, 18, "virStorageVolWipePattern"),
    (261, 20, "virDomainPMSuspendForDuration"),
    (262, 20, "virDomainGetCPUStats"),
    (263, 20, "virDomainGetDiskErrors"),
    (264, 20, "virDomainSetMetadata"),
    (265, 20, "virDomainGetMetadata"),
    (266, 20, "virDomainBlockRebase"),
    (267, 20, "virDomainPMWakeup"),
    (271, 35, "virDomainSnapshotIsCurrent"),
    (272, 35, "virDomainSnapshotHasMetadata"),
    (273, 20, "virConnectListAllDomains"),
    (274, 35, "virDomainListAllSnapshots"),
    (275, 35, "virDomainSnapshotListAllChildren"),
    (277, 20, "virDomainGetHostname"),
    (278, 20, "virDomainGetSecurityLabelList"),
    (281, 18, "virConnectListAllStoragePools"),
    (282, 18, "virStoragePoolListAllVolumes"),
    (284, 26, "virConnectListAllInterfaces"),
    (285, 22, "virConnectListAllNodeDevices"),
    (286, 33, "virConnectListAllNWFilters"),
    (287, 30, "virConnectListAllSecrets"),
    (289, 20, "virNodeGetMemoryParameters"),
    (290, 20, "virDomainBlockCommit"),
    (293, 20, "virNodeGetCPUMap"),
    (294, 20, "virDomainFSTrim"),
    (296, 20, "virDomainOpenChannel"),
    (297, 22, "virNodeDeviceLookupSCSIHostByWWN"),
    (298, 20, "virDomainGetJobStats"),
    (299, 20, "virDomainMigrateGetCompressionCache"),
    (300, 20, "virDomainMigrateSetCompressionCache"),
    (301, 22, "virNodeDeviceDetachFlags"),
    (302, 20, "virDomainMigrateBegin3Params"),
    (303, 20, "virDomainMigratePrepare3Params"),
    (304, 20, "virDomainMigratePrepareTunnel3Params"),
    (305, 20, "virDomainMigratePerform3Params"),
    (306, 20, "virDomainMigrateFinish3Params"),
    (307, 20, "virDomainMigrateConfirm3Params"),
    (308, 20, "virDomainSetMemoryStatsPeriod"),
    (309, 20, "virDomainCreateXMLWithFiles"),
    (310, 20, "virDomainCreateWithFiles"),
    (312, 20, "virConnectGetCPUModelNames"),
    (316, 20, "virConnectDomainEventRegisterAny"),
    (334, 20, "virDomainCoreDumpWithFormat"),
    (335, 20, "virDomainFSFreeze"),
    (336, 20, "virDomainFSThaw"),
    (337, 20, "virDomainGetTime"),
    (338, 20, "virDomainSetTime"),
    (342, 20, "virConnectGetDomainCapabilities"),
    (343, 20, "virDomainOpenGraphicsFD"),
    (344, 20, "virConnectGetAllDomainStats"),
    (345, 20, "virDomainBlockCopy"),
    (349, 20, "virDomainGetFSInfo"),
    (350, 20, "virDomainDefineXMLFlags"),
    (351, 20, "virDomainGetIOThreadInfo"),
    (353, 20, "virDomainInterfaceAddresses"),
    (355, 20, "virDomainAddIOThread"),
    (364, 20, "virDomainMigrateStartPostCopy"),
    (365, 20, "virDomainGetPerfEvents"),
    (368, 18, "virConnectStoragePoolEventRegisterAny"),
    (371, 20, "virDomainGetGuestVcpus"),
    (372, 20, "virDomainSetGuestVcpus"),
    (374, 22, "virConnectNodeDeviceEventRegisterAny"),
    (380, 30, "virConnectSecretEventRegisterAny"),
    (384, 20, "virDomainSetVcpu"),
    (386, 20, "virDomainSetBlockThreshold"),
    (387, 20, "virDomainMigrateGetMaxDowntime"),
    (388, 20, "virDomainManagedSaveGetXMLDesc"),
    (389, 20, "virDomainManagedSaveDefineXML"),
    (390, 20, "virDomainSetLifecycleAction"),
    (391, 18, "virStoragePoolLookupByTargetPath"),
    (392, 20, "virDomainDetachDeviceAlias"),
    (393, 20, "virConnectCompareHypervisorCPU"),
    (395, 20, "virNodeGetSEVInfo"),
    (396, 20, "virDomainGetLaunchSecurityInfo"),
    (397, 33, "virNWFilterBindingLookupByPortDev"),
    (398, 33, "virNWFilterBindingGetXMLDesc"),
    (399, 33, "virNWFilterBindingCreateXML"),
    (400, 33, "virNWFilterBindingDelete"),
    (401, 33, "virConnectListAllNWFilterBindings"),
    (403, 18, "virConnectGetStoragePoolCapabilities"),
    (411, 69, "virDomainCheckpointCreateXML"),
    (412, 69, "virDomainCheckpointGetXMLDesc"),
    (413, 69, "virDomainListAllCheckpoints"),
    (414, 69, "virDomainCheckpointListAllChildren"),
    (415, 69, "virDomainCheckpointLookupByName"),
    (416, 69, "virDomainCheckpointGetParent"),
    (417, 69, "virDomainCheckpointDelete"),
    (418, 20, "virDomainGetGuestInfo"),
    (420, 20, "virDomainAgentSetResponseTimeout"),
    (421, 20, "virDomainBackupBegin"),
    (422, 20, "virDomainBackupGetXMLDesc"),
    (424, 20, "virDomainAuthorizedSSHKeysGet"),
    (425, 20, "virDomainAuthorizedSSHKeysSet"),
    (426, 20, "virDomainGetMessages"),
    (427, 20, "virDomainStartDirtyRateCalc"),
    (428, 22, "virNodeDeviceDefineXML"),
    (429, 22, "virNodeDeviceUndefine"),
    (430, 22, "virNodeDeviceCreate"),
    (431, 33, "virNWFilterDefineXMLFlags"),
    (433, 22, "virNodeDeviceGetAutostart"),
    (434, 22, "virNodeDeviceSetAutostart"),
    (435, 22, "virNodeDeviceIsPersistent"),
    (436, 22, "virNodeDeviceIsActive"),
    (440, 20, "virDomainSaveParams"),
    (441, 20, "virDomainRestoreParams"),
    (442, 20, "virDomainAbortJobFlags"),
    (447, 22, "virNodeDeviceUpdate"),
    (448, 20, "virDomainGraphicsReload"),
    (449, 20, "virDomainGetAutostartOnce"),
    (450, 20, "virDomainSetAutostartOnce"),
    (456, 20, "virDomainAnnounceInterface"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::procedures::Procedure;

    #[test]
    fn the_table_is_in_order_and_holds_none_of_ours() {
        assert!(OTHERS.is_sorted_by(|a, b| a.0 < b.0));
        for (number, _, function) in OTHERS {
            assert_eq!(Procedure::from_number(*number), None, "{function}");
        }
    }

    #[test]
    fn functions_of_other_drivers_are_named_and_nothing_else() {
        let error = not_here(6, Bytes::new());
        assert_eq!((error.code, error.domain), (3, 20));
        assert_eq!(
            error.text(),
            "this function is not supported by the connection driver: virNodeGetInfo"
        );
        let error = not_here(9999, Bytes::new());
        assert_eq!((error.code, error.domain), (39, 7));
        assert_eq!(error.text(), "unknown procedure: 9999");
    }

    #[test]
    fn nobody_has_registered_for_events_of_other_drivers() {
        let of_domains = "this function is not supported by the connection driver: \
                          virConnectDomainEventRegisterAny";
        let of_secrets = "this function is not supported by the connection driver: \
                          virConnectSecretEventRegisterAny";
        // As libvirtd 12.8 answers.
        #[rustfmt::skip]
        let answers = [
            (105, None, 3, 20, of_domains),
            (106, None, 1, 7, "internal error: domain event 0 not registered"),
            (106, Some(5), 1, 7, "internal error: domain event 0 not registered"),
            (167, Some(15), 3, 20, of_domains),
            (167, Some(16), 1, 7, "internal error: unsupported event ID 16"),
            (168, Some(7), 1, 7, "internal error: domain event 7 not registered"),
            (168, Some(16), 1, 7, "internal error: unsupported event ID 16"),
            (168, Some(-1), 1, 7, "internal error: unsupported event ID -1"),
            (316, Some(29), 3, 20, of_domains),
            (316, Some(30), 1, 7, "internal error: unsupported event ID 30"),
            (317, Some(-1), 1, 7, "internal error: domain event callback -1 not registered"),
            (368, Some(2), 1, 7, "internal error: unsupported storage pool event ID 2"),
            (369, Some(1), 1, 7, "internal error: storage pool event callback 1 not registered"),
            (374, Some(2), 1, 7, "internal error: unsupported node device event ID 2"),
            (375, Some(1), 1, 7, "internal error: node device event callback 1 not registered"),
            (380, Some(1), 3, 30, of_secrets),
            (380, Some(2), 1, 7, "internal error: unsupported secret event ID 2"),
            (381, Some(5), 1, 7, "internal error: node device event callback 5 not registered"),
        ];
        for (number, argument, code, domain, words) in answers {
            let payload = argument.map_or(Bytes::new(), |argument: i32| {
                Bytes::copy_from_slice(&argument.to_be_bytes())
            });
            let error = not_here(number, payload);
            assert_eq!((error.code, error.domain), (code, domain), "{number}");
            assert_eq!(error.text(), words, "{number}");
        }
        for number in [167, 168, 316, 317] {
            let error = not_here(number, Bytes::new());
            assert_eq!((error.code, error.domain), (39, 7), "{number}");
            assert!(error.text().starts_with("Unable to decode message payload"));
        }
    }
}
