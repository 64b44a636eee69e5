// Package node composes a running Sluice node out of all the others. It is the
// only package that knows them all, and nothing but the command line and tests
// imports it.
//
// New opens everything in the order of construction and registers each clean-up
// at once; Start serves; Stop undoes in reverse, names what failed, and works
// after a half-finished New. A node is wired by hand: no container, no
// registration in init, no globals.
//
// # The data folder
//
//	DIR/version           format of the folder; another one is refused
//	DIR/lock              held while a process uses the folder; has its pid
//	DIR/node              the node's name, made at the first start
//	DIR/ready.json        addresses and pid, while the node serves
//	DIR/secret.key        key of the secrets at rest
//	DIR/control.db        the control plane's store (role control)
//	DIR/setup-link        the one-time set-up link, until it was used
//	DIR/snapshot/         what the node knows of the platform
//	DIR/embedded/         the embedded store
package node
