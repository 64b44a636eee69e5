// Package sluicetest is a fake of a whole Sluice installation for tests: several nodes in memory that speak the real
// protocol, a broker behind them, faults on demand, and a clock that the test moves.
//
//	fake := sluicetest.New(sluicetest.Config{Nodes: 2})
//	defer fake.Close()
//	client, err := fake.Connect(ctx)
//	fake.FailNext(1, &sluice.Error{Reason: sluice.ReasonUnavailable, Status: sluice.StatusNotSent})
//	... the code under test publishes ...
//	published := fake.Published("orders")
//
// What is published to a topic, or put there by [Server.Deliver], reaches every group that subscribes to the topic, from its
// beginning. Leases end, and released messages come again, by the fake's clock, which stands still until [Server.Advance]
// moves it: nothing in a test has to wait. Topics need not be made. Four partitions; partition p belongs to the node
// number p mod the number of live nodes. In an ordered group nothing of a key or partition is delivered before the
// whole run that is out has been settled.
//
// It is meant for correctness, not for measuring: it keeps every message, and it does not check tokens.
package sluicetest
