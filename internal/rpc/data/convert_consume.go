package data

import (
	"sync"
	"time"

	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// decodeSubscription checks the shape; names and conflicts are the engine's business.
func decodeSubscription(sub *sluicev1.Subscription) (consume.Subscription, error) {
	var out consume.Subscription
	if sub.GetGroup() == "" {
		return out, fault.New(fault.InvalidArgument, "the subscription names no group")
	}
	if len(sub.GetTopics()) == 0 {
		return out, fault.New(fault.InvalidArgument, "group %s: the subscription names no topic", sub.GetGroup())
	}
	lease := time.Duration(sub.GetLeaseMs()) * time.Millisecond
	if lease != 0 && (lease < minLease || lease > maxLease) {
		return out, fault.New(fault.InvalidArgument, "group %s: a lease of %s is out of range; %s to %s is allowed", sub.GetGroup(), lease, minLease, maxLease)
	}
	if sub.GetMaxInFlight() > maxInFlight {
		return out, fault.New(fault.InvalidArgument, "group %s: max_in_flight %d is out of range; at most %d is allowed", sub.GetGroup(), sub.GetMaxInFlight(), maxInFlight)
	}
	order, ok := ordersIn[sub.GetOrder()]
	if !ok {
		return out, fault.New(fault.InvalidArgument, "group %s: order %d is unknown; use none, key or partition", sub.GetGroup(), sub.GetOrder())
	}
	return consume.Subscription{
		Group: sub.GetGroup(), Topics: sub.GetTopics(), Order: order, Start: sub.GetStart(), Lease: lease, MaxInFlight: int(sub.GetMaxInFlight()),
	}, nil
}

var ordersIn = map[sluicev1.Order]snapshot.Order{
	sluicev1.Order_ORDER_UNSPECIFIED: snapshot.OrderUnset,
	sluicev1.Order_ORDER_NONE:        snapshot.OrderNone,
	sluicev1.Order_ORDER_KEY:         snapshot.OrderKey,
	sluicev1.Order_ORDER_PARTITION:   snapshot.OrderPartition,
}

var ordersOut = map[snapshot.Order]sluicev1.Order{
	snapshot.OrderUnset:     sluicev1.Order_ORDER_UNSPECIFIED,
	snapshot.OrderNone:      sluicev1.Order_ORDER_NONE,
	snapshot.OrderKey:       sluicev1.Order_ORDER_KEY,
	snapshot.OrderPartition: sluicev1.Order_ORDER_PARTITION,
}

// inForce is what the opening of a stream is answered with.
func inForce(asked consume.Subscription, st snapshot.Settings) *sluicev1.Subscription {
	if asked.Lease == 0 {
		asked.Lease = 30 * time.Second
	}
	if asked.MaxInFlight == 0 {
		asked.MaxInFlight = 256
	}
	return &sluicev1.Subscription{
		Group: asked.Group, Topics: asked.Topics, Order: ordersOut[st.Order], Start: st.Start,
		LeaseMs:     uint32(asked.Lease.Milliseconds()), //nolint:gosec // decodeSubscription bounds it
		MaxInFlight: uint32(asked.MaxInFlight),          //nolint:gosec // likewise
	}
}

// decodeAcks converts in bulk. An ack of the wrong shape gets its own result and spoils no other: bad has an
// entry for each ack, nil where the ack stands in good, in order.
func decodeAcks(acks []*sluicev1.Ack) (good []consume.Ack, bad []*fault.Error) {
	good = make([]consume.Ack, 0, len(acks))
	bad = make([]*fault.Error, len(acks))
	for i, a := range acks {
		action := consume.Action(0)
		if int(a.GetAction()) < len(actionsIn) && a.GetAction() >= 0 {
			action = actionsIn[a.GetAction()]
		}
		switch {
		case action == 0:
			bad[i] = fault.New(fault.InvalidArgument, "action %d is unknown; use accept, release, reject or renew", a.GetAction())
		case len(a.GetReceipt()) == 0:
			bad[i] = fault.New(fault.ReceiptInvalid, "the receipt is empty")
		case len(a.GetCause()) > maxCause:
			bad[i] = fault.New(fault.InvalidArgument, "the cause has %d bytes; at most %d are allowed", len(a.GetCause()), maxCause)
		case time.Duration(a.GetDelayMs())*time.Millisecond > maxLease:
			bad[i] = fault.New(fault.InvalidArgument, "delay_ms %d is out of range; at most %d is allowed", a.GetDelayMs(), maxLease.Milliseconds())
		default:
			good = append(good, consume.Ack{
				Receipt: a.GetReceipt(), Action: action, Delay: time.Duration(a.GetDelayMs()) * time.Millisecond, Cause: a.GetCause(),
			})
		}
	}
	return good, bad
}

var actionsIn = [...]consume.Action{
	sluicev1.Action_ACTION_UNSPECIFIED: 0,
	sluicev1.Action_ACTION_ACCEPT:      consume.Accept,
	sluicev1.Action_ACTION_RELEASE:     consume.Release,
	sluicev1.Action_ACTION_REJECT:      consume.Reject,
	sluicev1.Action_ACTION_RENEW:       consume.Renew,
	sluicev1.Action_ACTION_RETURN:      consume.Return,
}

// deliveryArena holds the protos of a batch of deliveries in two blocks.
type deliveryArena struct {
	deliveries []sluicev1.Delivery
	headers    []sluicev1.Header
	pointers   []*sluicev1.Delivery
	hpointers  []*sluicev1.Header
}

// arenas are used again by streams, which are done with the protos once Send returns.
var arenas = sync.Pool{New: func() any { return new(deliveryArena) }}

// recycle gives the arena back without what it points to.
func (a *deliveryArena) recycle() {
	for i := range a.deliveries {
		resetDelivery(&a.deliveries[i])
	}
	for i := range a.headers {
		a.headers[i].Name, a.headers[i].Value = "", nil
	}
	arenas.Put(a)
}

func resetDelivery(d *sluicev1.Delivery) {
	d.Receipt, d.Id, d.Key, d.Body, d.Headers, d.Tag = nil, "", nil, nil, nil, ""
	d.Topic, d.Cluster, d.Partition = "", "", ""
}

// encode converts deliveries; the bytes are shared with them.
func (a *deliveryArena) encode(ds []consume.Delivery) []*sluicev1.Delivery {
	headers := 0
	for i := range ds {
		headers += len(ds[i].Record.Headers)
	}
	if cap(a.deliveries) < len(ds) {
		a.deliveries = make([]sluicev1.Delivery, len(ds))
		a.pointers = make([]*sluicev1.Delivery, len(ds))
	}
	if cap(a.headers) < headers {
		a.headers = make([]sluicev1.Header, headers)
		a.hpointers = make([]*sluicev1.Header, headers)
	}
	a.deliveries, a.pointers = a.deliveries[:len(ds)], a.pointers[:len(ds)]
	a.headers, a.hpointers = a.headers[:headers], a.hpointers[:headers]
	h := 0
	for i := range ds {
		d, out := &ds[i], &a.deliveries[i]
		a.pointers[i] = out
		out.Receipt, out.Id, out.Key, out.Body, out.Tag = d.Receipt, d.ID, d.Record.Key, d.Record.Body, d.Record.Tag
		out.Topic, out.Cluster, out.Partition, out.Offset = d.Topic, d.Cluster, d.Partition, d.Offset
		out.Attempt = uint32(max(d.Attempt, 0)) //nolint:gosec // a small number
		out.PublishedAtMs, out.DeadlineMs, out.Run = millis(d.Record.Timestamp), millis(d.Deadline), d.Run
		first := h
		for j := range d.Record.Headers {
			a.headers[h].Name, a.headers[h].Value = d.Record.Headers[j].Name, d.Record.Headers[j].Value
			a.hpointers[h] = &a.headers[h]
			h++
		}
		out.Headers = a.hpointers[first:h:h]
	}
	return a.pointers
}

// millis is the wire form of a time; 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func encodeNodes(ns []*snapshot.Node) []*sluicev1.Node {
	out := make([]*sluicev1.Node, len(ns))
	for i, n := range ns {
		out[i] = &sluicev1.Node{Name: n.Name, Grpc: n.GRPC, Http: n.HTTP, Roles: n.Roles, Datacenter: n.Datacenter}
	}
	return out
}

// deliveryBytes is about what a delivery takes on the wire.
func deliveryBytes(d *consume.Delivery) int {
	return d.Record.Bytes() + len(d.Receipt) + len(d.ID) + len(d.Topic) + len(d.Cluster)
}

// fit is how many of ds go into limit bytes; at least one, so that a message larger than the limit travels alone.
func fit(ds []consume.Delivery, limit, most int) int {
	size := 0
	for i := range ds {
		size += deliveryBytes(&ds[i])
		if i > 0 && (size > limit || i >= most) {
			return i
		}
	}
	return len(ds)
}
