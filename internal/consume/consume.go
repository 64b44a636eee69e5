package consume

import (
	"context"
	"time"

	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/mq"
	"github.com/sluice-mq/sluice/internal/snapshot"
)

// Subscription is what a client asks for.
type Subscription struct {
	Group  string
	Topics []string
	// Order and Start are unstated when zero.
	Order snapshot.Order
	Start string
	// Each client's own.
	Lease       time.Duration // 0: 30 s
	MaxInFlight int           // 0: 256
}

// Delivery is a leased message.
type Delivery struct {
	Receipt   []byte
	ID        string
	Record    mq.Record // sluice-* headers removed; Tag set
	Topic     string    // logical
	Cluster   string
	Partition string
	Offset    int64
	Attempt   int
	Deadline  time.Time
	Run       uint64 // deliveries of one session with the same non-zero number are worked on one after the other
}

// Action settles a lease or prolongs it.
type Action int

// The actions, as in consume.proto.
const (
	Accept Action = iota + 1
	Release
	Reject
	Renew
	Return
)

// Ack is one answer to one delivery.
type Ack struct {
	Receipt []byte
	Action  Action
	Delay   time.Duration
	Cause   string
}

// Consumer is what rpc/data needs of the engine.
type Consumer interface {
	// Open attaches a client to a group, which makes this node join it where it should serve it.
	Open(ctx context.Context, who auth.Who, sub Subscription) (Session, error)
	// Settle settles receipts of any node, one result (nil: recorded) per ack; those of other owners are forwarded.
	Settle(ctx context.Context, who auth.Who, group string, acks []Ack) []*fault.Error
	// GroupNodes are the nodes that serve a group, best first.
	GroupNodes(group string) []*snapshot.Node
}

// Session is one attached client. Next is called by one goroutine at a time.
type Session interface {
	// Next leases up to max messages, waiting up to wait for the first one. It returns early, with none, when the
	// client should be told something (Changed, GoAway).
	Next(ctx context.Context, max int, wait time.Duration) ([]Delivery, error)
	// Return gives deliveries back that never reached the client; no attempt is counted.
	Return(ds []Delivery)
	// Settings are those in force for the first topic.
	Settings() snapshot.Settings
	// Events delivers what the client should be told; closed with the session.
	Events() <-chan Event
	// Close ends the session; what is still leased is returned where now is true, else it runs to its deadline.
	Close(now bool)
}

// Event is something a client should be told; one field is set.
type Event struct {
	Nodes   []*snapshot.Node
	Revoked [][]byte // receipts that no longer count
	GoAway  string
	Err     *fault.Error // the session cannot go on
}

// Control is what the engine asks of the control plane; node wires it to control or to peer.
type Control interface {
	EnsureSubscription(ctx context.Context, group string, settings map[string]snapshot.Settings) error
	EnsureTopic(ctx context.Context, topic string) error
}

// Remote settles receipts at their owner; node wires it to peer.
type Remote interface {
	// Settle never fails as a whole: a node that cannot be reached makes each result an Unavailable with MaybeSent.
	Settle(ctx context.Context, node, app, group string, acks []Ack) []*fault.Error
}

// Clusters gives drivers by cluster name; node wires it to cluster.Registry.
type Clusters interface {
	Driver(name string) (mq.Driver, error)
}
