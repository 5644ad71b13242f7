//! The command line: virsh's verbs and tables.
