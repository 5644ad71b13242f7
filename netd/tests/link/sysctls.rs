//! Settings of the kernel, and what IPv6 forwarding puts at risk.

use netd::link::{Links, routes_at_risk, sysctl};
use netd::model::Family;

use crate::{MAC, in_namespace, ip};

#[test]
fn sysctls_are_those_of_the_threads_namespace() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        let outside = std::fs::read_to_string("/proc/1/net/dev").unwrap();
        assert!(
            !outside.contains("br.0"),
            "the test's own device exists outside"
        );
        links.create_bridge("br.0", MAC, None).await.unwrap();

        assert_eq!(sysctl::accept_ra("br9").unwrap(), None);
        sysctl::set_accept_ra("br.0", 2).unwrap();
        assert_eq!(sysctl::accept_ra("br.0").unwrap(), Some(2));

        assert!(sysctl::has_ipv6().unwrap());
        for family in [Family::Ipv4, Family::Ipv6] {
            for on in [true, false] {
                sysctl::set_forwarding(family, on).unwrap();
                assert_eq!(sysctl::forwarding(family).unwrap(), on, "{family}");
            }
        }

        for value in ["1", "0"] {
            let on = value == "1";
            assert!(sysctl::set_disable_ipv6("br.0", on).unwrap());
            assert!(sysctl::set_accept_ra("br.0", u8::from(on)).unwrap());
            assert!(sysctl::set_autoconf("br.0", on).unwrap());
            for key in ["disable_ipv6", "accept_ra", "autoconf"] {
                assert_eq!(
                    sysctl::read(&["ipv6", "conf", "br.0", key]).unwrap(),
                    value,
                    "{key}"
                );
            }
        }

        let error = sysctl::set_accept_ra("br9", 0).unwrap_err().to_string();
        assert!(
            error.contains(
                "cannot write '0' to /proc/sys/net/ipv6/conf/br9/accept_ra: No such file"
            ),
            "{error}"
        );
        let error = sysctl::write(&["ipv4", "ip_forward"], "many")
            .unwrap_err()
            .to_string();
        assert!(
            error
                .contains("cannot write 'many' to /proc/sys/net/ipv4/ip_forward: Invalid argument"),
            "{error}"
        );
    });
}

#[test]
fn advertised_routes_are_at_risk_until_accept_ra_is_2() {
    in_namespace(|| async {
        let links = Links::connect().unwrap();
        ip("link add eth7 type veth peer name g0");
        ip("link set g0 up");
        ip("link set eth7 up");
        sysctl::set_accept_ra("eth7", 1).unwrap();
        ip("-6 route add 2001:db8::/32 dev eth7");
        let snapshot = links.snapshot().await.unwrap();
        assert_eq!(routes_at_risk(&snapshot), None, "static routes stay");
        ip("-6 route add default dev eth7 proto ra");
        let snapshot = links.snapshot().await.unwrap();
        let text = routes_at_risk(&snapshot).unwrap().to_string();
        assert!(text.contains("interface eth7 got IPv6 routes"), "{text}");
        for safe in [0, 2] {
            sysctl::set_accept_ra("eth7", safe).unwrap();
            let snapshot = links.snapshot().await.unwrap();
            assert_eq!(routes_at_risk(&snapshot), None, "accept_ra={safe}");
        }
    });
}
