// Package sluice is the Go client of Sluice: it publishes to topics and consumes from them through the nodes of a Sluice
// installation, whatever brokers stand behind.
//
//	c, err := sluice.Connect(ctx, "a:7600,b:7600", sluice.Token(token))
//	p := c.Publisher("orders")
//	r, err := p.Publish(ctx, sluice.Message{Key: []byte("u42"), Body: body})
//	err = c.Receive(ctx, sluice.Subscription{Group: "billing", Topics: []string{"orders"}, Order: sluice.ByKey}, handle)
//	err = c.Close(ctx)
//
// # Publishing
//
// Every message gets exactly one [Result]. No error means stored: acknowledged by the broker with the durability that the
// publisher asks for. Everything else is an [*Error] of one of three kinds: [Refused], [NotSent], [MaybeSent].
//
// A publisher batches by itself, numbers its messages and gives each an id that stays through every retry. Messages of one key
// keep their order: after one has failed, the later ones of its key that were already handed over fail too, as
// [ReasonPrecedingFailed], so that sending again from the failed one keeps the order. Until its deadline a message is sent
// again where that is safe or cannot be avoided: when a node proved it not sent for a reason that passes (no broker,
// slow down, go away), and when the connection to the node was lost before an answer came; that last case may store it
// twice, under one id, by which the consumer side drops the repeat. A node's own answer "maybe sent" is reported, never
// repeated.
//
// # Consuming
//
// [Client.Receive] calls a handler; a [Receiver] hands out deliveries by [Receiver.Next] or [Receiver.All]. A delivered
// message is leased: settle it by [Delivery.Accept], [Delivery.Release] or [Delivery.Reject], or by the handler's result.
// Leases are renewed meanwhile. A message that was not settled, or whose settlement was not recorded, comes again: handlers have
// to bear repeats. Never more than MaxInFlight messages are here and not settled, over all nodes.
//
// # Goroutines and locks
//
// A publisher has one goroutine that owns its retry machine (internal/outbox), one for callbacks and two for each of its
// streams. A receiver has one that follows the nodes, one that settles for lost streams, and two a stream; one
// mutex guards its state and is never held over a wait. Close ends and awaits them all.
//
// Package sluicetest is a fake of the whole installation for tests, in memory, with faults on demand.
package sluice
