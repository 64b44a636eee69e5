// Package mqtest holds what tests of and with drivers share: the conformance
// suite that every mq.Driver passes (Run), and the one fake driver (Fake).
//
// The suite knows drivers only by the interfaces of mq. What a backend cannot
// do is decided by its Caps, and the suite checks that the caps are true: a
// driver without headers has to refuse records with headers, not drop them.
//
// The Fake is a cluster in memory whose answers a test scripts: errors, delays,
// lost replies, moving leaders, assignments chosen by hand. It passes the suite
// too. No lock of it is held over a wait, so it runs inside testing/synctest.
package mqtest
