// Package cli is the command line: a file per noun. It parses, calls the
// server's own interfaces (the SDK for messages, the admin API for the rest) and
// prints; it decides nothing that another client could not decide as well.
//
// What people and scripts may rely on: `-o table|json|yaml` everywhere, errors
// as lines "error: <what> <which>: <why>; <what to do>" on stderr, exit code 0
// only when all that was asked happened, 2 for wrong usage, 130 after Ctrl-C,
// 1 for the rest. Names, flags and JSON fields may be added, not changed.
package cli
