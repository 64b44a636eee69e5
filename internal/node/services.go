package node

import (
	"context"
	"time"

	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/internal/auth"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/peer"
	"github.com/sluice-mq/sluice/internal/rpc/admin"
	"github.com/sluice-mq/sluice/internal/rpc/data"
	rpcpeer "github.com/sluice-mq/sluice/internal/rpc/peer"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// register adds the services that this node's roles offer.
func (n *Node) register(context.Context) error {
	d := data.Deps{Snapshots: n.snapshots, Node: n.name, Remote: n.peers, Log: n.part("data"), Registerer: n.reg}
	if n.publish != nil {
		d.Publisher = n.publish
	}
	if n.consume != nil {
		d.Consumer = n.consume
	}
	var err error
	if n.data, err = data.New(data.DefaultConfig(), n.server, d); err != nil {
		return err
	}
	n.undo.add("data plane", plain(n.data.Close))

	neighbour := &rpcpeer.Neighbour{Faults: n.server.Faults()}
	if n.consume != nil {
		neighbour.Settler, neighbour.Puller, neighbour.Statuser = own{n}, own{n}, own{n}
	}
	if err := neighbour.Register(n.server); err != nil {
		return err
	}
	if n.control == nil {
		return nil
	}
	c := &rpcpeer.Control{Service: n.control, Snapshots: n.snapshots, Stopping: n.server.Draining()}
	if err := c.Register(n.server); err != nil {
		return err
	}
	n.handleSetup()
	return admin.New(n.control, n.server.Faults()).Register(n.server)
}

// follow starts what runs beside the listeners: streams are looked at again when credentials changed, and a node without
// the control role follows the control plane.
func (n *Node) follow(context.Context) error {
	n.tasks.Go(func() {
		for {
			changed := n.snapshots.Changed()
			n.server.RecheckStreams()
			select {
			case <-changed:
			case <-n.background.Done():
				return
			}
		}
	})
	if n.joined != nil {
		n.tasks.Go(func() { n.joined.Run(n.background) })
	}
	return nil
}

// own answers neighbours with what this node has.
type own struct{ n *Node }

func (o own) SettleOwn(ctx context.Context, app, group string, acks []consume.Ack) []*fault.Error {
	return o.n.consume.SettleOwn(ctx, app, group, acks)
}

func (o own) PullOwn(ctx context.Context, app string, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error) {
	return o.n.data.PullLocal(ctx, auth.Who{App: app}, req)
}

func (o own) GroupStatus(_ context.Context, group string) (*nodev1.GroupStatusResponse, error) {
	s := o.n.groupStatus(group)
	res := &nodev1.GroupStatusResponse{Clients: uint32(s.Clients)}
	for _, l := range s.Lanes {
		res.Lanes = append(res.Lanes, &nodev1.LaneStatus{
			Topic: l.Topic, Cluster: l.Cluster, Partition: l.Partition, Committed: l.Committed, Fetched: l.Fetched,
			HighWatermark: l.HighWatermark, Leased: uint32(l.Leased), Buffered: uint32(l.Buffered), Window: uint32(l.Window),
			Epoch: l.Epoch, Blocked: l.Blocked,
		})
	}
	return res, nil
}

// statuses asks nodes, this one directly, what they hold of a group.
type statuses struct{ n *Node }

func (s statuses) GroupStatus(ctx context.Context, node, group string) (peer.GroupStatus, error) {
	if node == s.n.name {
		return s.n.groupStatus(group), nil
	}
	return s.n.peers.GroupStatus(ctx, node, group)
}

func (n *Node) groupStatus(group string) peer.GroupStatus {
	if n.consume == nil {
		return peer.GroupStatus{}
	}
	lanes, clients := n.consume.Status(group)
	s := peer.GroupStatus{Clients: clients}
	for _, l := range lanes {
		s.Lanes = append(s.Lanes, peer.LaneStatus{
			Topic: l.Topic, Cluster: l.Cluster, Partition: l.Partition, Committed: l.Committed, Fetched: l.Fetched,
			HighWatermark: l.HighWatermark, Leased: l.Leased, Buffered: l.Buffered, Window: l.Window,
			Epoch: uint64(l.Epoch), Blocked: l.Blocked,
		})
	}
	return s
}

// settler hands acks to the node that owns their leases.
type settler struct{ pool *peer.Pool }

// Settle implements consume.Remote.
func (s settler) Settle(ctx context.Context, node, app, group string, acks []consume.Ack) []*fault.Error {
	out := make([]*sluicev1.Ack, len(acks))
	for i, a := range acks {
		out[i] = &sluicev1.Ack{
			Receipt: a.Receipt, Action: sluicev1.Action(a.Action), DelayMs: uint32(a.Delay / time.Millisecond), Cause: a.Cause,
		}
	}
	return s.pool.Settle(ctx, node, app, group, out)
}
