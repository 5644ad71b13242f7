//! Who is refused what, over which socket.

use netd::api::ErrorDomain;
use netd::rpc::Limits;
use netd::rpc::message::{Message, PROGRAM_NETD};
use netd::rpc::procedures::{IdentityArgs, TypedParameter, TypedValue};
use netd::rpc::xdr::List;

use crate::raw::{Raw, against, n1, numbers, open_args};
use crate::{Server, ran, read_only_socket, virsh};

#[test]
fn over_the_read_only_socket_even_root_only_looks() {
    against(Limits::default(), |socket| async move {
        // As libvirt's clients open it, and as one that hides what it is.
        for flags in [1, 0] {
            let mut raw = Raw::connect(&read_only_socket(&socket)).await;
            raw.ok(1, &open_args("network:///system", flags)).await;
            raw.ok(46, "n1").await;
            let error = raw.fails(42, &n1()).await;
            assert_eq!(numbers(&error), (29, ErrorDomain::Network as i32));
            assert_eq!(
                error.text(),
                "operation forbidden: read only access prevents virNetworkDestroy"
            );
        }
    });
}

#[test]
fn netds_own_program_is_for_those_who_may_change_things() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&read_only_socket(&socket)).await;
        raw.ok(1, &open_args("network:///system", 0)).await;
        let mut header = raw.header(6);
        header.program = PROGRAM_NETD;
        let error = raw.refused(&Message::new(header, &0_u64).unwrap()).await;
        assert_eq!(numbers(&error), (88, ErrorDomain::Access as i32));
        assert!(error.text().starts_with("access denied: "), "{error:?}");
    });
}

#[test]
fn who_need_not_prove_anything_is_told_so() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::connect(&socket).await;
        assert_eq!(&raw.ok(66, &()).await[..], b"\0\0\0\x01\0\0\0\0");
        let error = raw.fails(70, &()).await;
        assert_eq!(numbers(&error), (45, ErrorDomain::Rpc as i32));
        raw.ok(1, &open_args("network:///system", 0)).await;
    });
}

#[test]
fn an_identity_is_checked_as_libvirt_does() {
    against(Limits::default(), |socket| async move {
        let mut raw = Raw::open(&socket).await;
        let args = |field: &str, value: TypedValue, flags| IdentityArgs {
            parameters: List(vec![TypedParameter {
                field: field.to_owned(),
                value,
            }]),
            flags,
        };
        let user = || TypedValue::String("alice".to_owned());
        raw.ok(419, &args("user-name", user(), 0)).await;
        raw.ok(419, &args("system.token", user(), 0)).await;
        for (wrong, code) in [
            (args("shoe-size", user(), 0), 74),
            (args("unix-user-id", user(), 0), 8),
            (args("user-name", TypedValue::Int(5), 0), 8),
            (args("user-name", user(), 1), 8),
        ] {
            assert_eq!(raw.fails(419, &wrong).await.code, code, "{wrong:?}");
        }
        raw.ok(46, "n1").await;
    });
}

#[test]
fn virsh_looks_over_the_read_only_socket() {
    let server = Server::start();
    let socket = read_only_socket(&server.socket);
    let run = |words: &[&str]| {
        let mut virsh = virsh(&socket)?;
        Some(ran(virsh.arg("-r").args(words)))
    };
    let Some(list) = run(&["net-list", "--all", "--name"]) else {
        return;
    };
    assert_eq!(list.code, Some(0), "{list:?}");
    assert!(list.stdout.lines().any(|name| name == "n1"), "{list:?}");
    let destroy = run(&["net-destroy", "n1"]).unwrap();
    assert_eq!(destroy.code, Some(1));
    assert!(
        destroy
            .stderr
            .contains("operation forbidden: read only access prevents"),
        "{destroy:?}"
    );
}
