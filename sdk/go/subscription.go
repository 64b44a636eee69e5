package sluice

import (
	"time"

	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Order is what a group is promised about the order of messages.
type Order int

const (
	// Inherit takes the order that the group has; a new group gets None.
	Inherit Order = iota
	// None gives any message to any client.
	None
	// ByKey gives messages of one key one after the other, keys in parallel.
	ByKey
	// ByPartition gives a partition's messages one after the other.
	ByPartition
)

// Subscription says what to consume. Settings left zero are inherited from the group; stating others than it has
// fails with ReasonSubscriptionConflict.
type Subscription struct {
	Group  string
	Topics []string
	Order  Order
	// Start is where a new group starts: "earliest" (default), "latest", or an RFC 3339 time.
	Start string

	// Lease is how long a delivered message is this client's without a renewal; 0: 30 s; 1 s to 12 h.
	Lease time.Duration
	// MaxLease is how long leases are renewed, at half their time, from a message's delivery on; 0: 10 minutes;
	// negative: they are not renewed.
	MaxLease time.Duration
	// MaxInFlight is how many messages may be here, delivered and not settled, over all nodes; 0: 256; at most 10,000.
	MaxInFlight int
	// Concurrency is how many handlers run at once; 0: 16. Only Receive uses it.
	Concurrency int
	// Drain is how long Receive lets handlers finish when it ends; what is not done in its last second is given back.
	// 0: 30 s; negative: everything is given back at once, and the handlers' contexts end.
	Drain time.Duration
	// OnError is told of every error and panic (*PanicError) of a handler, after the message was released or rejected
	// for it. May be nil. It is called from the handlers' goroutines.
	OnError func(*Delivery, error)
}

// fix checks a subscription and fills its defaults in.
func (s *Subscription) fix() *Error {
	switch {
	case s.Group == "":
		return failure(ReasonInvalidArgument, "the subscription names no group")
	case len(s.Topics) == 0:
		return failure(ReasonInvalidArgument, "the subscription of group %s names no topic", s.Group)
	case s.Order < Inherit || s.Order > ByPartition:
		return failure(ReasonInvalidArgument, "the subscription of group %s has the unknown order %d", s.Group, int(s.Order))
	case s.MaxInFlight < 0 || s.MaxInFlight > 10_000:
		return failure(ReasonInvalidArgument, "the subscription of group %s has %d messages in flight; allowed are 1 to 10,000", s.Group, s.MaxInFlight)
	case s.Lease != 0 && (s.Lease < time.Second || s.Lease > 12*time.Hour):
		return failure(ReasonInvalidArgument, "the subscription of group %s has a lease of %v; allowed are 1 s to 12 h", s.Group, s.Lease)
	}
	if s.MaxInFlight == 0 {
		s.MaxInFlight = 256
	}
	if s.Lease == 0 {
		s.Lease = 30 * time.Second
	}
	if s.MaxLease == 0 {
		s.MaxLease = 10 * time.Minute
	}
	if s.Concurrency <= 0 {
		s.Concurrency = 16
	}
	if s.Drain == 0 {
		s.Drain = 30 * time.Second
	}
	return nil
}

func (s *Subscription) proto() *sluicev1.Subscription {
	return &sluicev1.Subscription{
		Group: s.Group, Topics: s.Topics, Order: sluicev1.Order(s.Order), Start: s.Start,
		LeaseMs: uint32(s.Lease.Milliseconds()), MaxInFlight: uint32(s.MaxInFlight),
	}
}
