// Package peer answers other nodes: PeerService for neighbours (settle, pull,
// status) and, on a control node, ControlService (join, first uses). The calling
// side is internal/peer.
package peer

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/sluice-mq/sluice/gen/nodev1"
	"github.com/sluice-mq/sluice/internal/consume"
	"github.com/sluice-mq/sluice/internal/control"
	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/internal/snapshot"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// Settler settles receipts that this node owns; it never passes them on, so that two nodes that take each other for the owner cannot send them to and fro.
type Settler interface {
	SettleOwn(ctx context.Context, app, group string, acks []consume.Ack) []*fault.Error
}

// Puller leases messages of this node's own lanes for a client that asked another node.
type Puller interface {
	PullOwn(ctx context.Context, app string, req *sluicev1.PullRequest) (*sluicev1.PullResponse, error)
}

// Statuser tells what this node holds of a group.
type Statuser interface {
	GroupStatus(ctx context.Context, group string) (*nodev1.GroupStatusResponse, error)
}

// Neighbour is the PeerService of a node; what is nil the node does not have (fault.WrongRole).
type Neighbour struct {
	nodev1.UnimplementedPeerServiceServer
	Settler  Settler
	Puller   Puller
	Statuser Statuser
	Faults   *rpc.Faults
}

// Register adds the service to a server; only nodes may call it.
func (n *Neighbour) Register(s *rpc.Server) error {
	return s.Register(&nodev1.PeerService_ServiceDesc, n, map[string]rpc.Right{
		"Settle": rpc.Node, "Pull": rpc.Node, "GroupStatus": rpc.Node,
	})
}

var errNotConsumer = fault.New(fault.WrongRole, "this node is not a consumer proxy")

// maxAcks bounds one call.
const maxAcks = 10_000

// Settle implements PeerService.
func (n *Neighbour) Settle(ctx context.Context, req *nodev1.SettleRequest) (*nodev1.SettleResponse, error) {
	if n.Settler == nil {
		return nil, errNotConsumer
	}
	if len(req.GetAcks()) > maxAcks {
		return nil, fault.New(fault.InvalidArgument, "%d acks in one call; at most %d are taken", len(req.GetAcks()), maxAcks)
	}
	acks := make([]consume.Ack, len(req.GetAcks()))
	for i, a := range req.GetAcks() {
		acks[i] = consume.Ack{
			Receipt: a.GetReceipt(), Action: consume.Action(a.GetAction()),
			Delay: time.Duration(a.GetDelayMs()) * time.Millisecond, Cause: a.GetCause(),
		}
	}
	res := &nodev1.SettleResponse{}
	for _, e := range n.Settler.SettleOwn(ctx, req.GetApp(), req.GetGroup(), acks) {
		r := &sluicev1.AckResult{}
		if e != nil {
			r.Error = n.Faults.Proto(e)
		}
		res.Results = append(res.Results, r)
	}
	return res, nil
}

// Pull implements PeerService.
func (n *Neighbour) Pull(ctx context.Context, req *nodev1.PullRequest) (*nodev1.PullResponse, error) {
	if n.Puller == nil {
		return nil, errNotConsumer
	}
	if req.GetPull() == nil {
		return nil, fault.New(fault.InvalidArgument, "a pull without a request")
	}
	res, err := n.Puller.PullOwn(ctx, req.GetApp(), req.GetPull())
	if err != nil {
		return nil, err
	}
	return &nodev1.PullResponse{Pull: res}, nil
}

// GroupStatus implements PeerService.
func (n *Neighbour) GroupStatus(ctx context.Context, req *nodev1.GroupStatusRequest) (*nodev1.GroupStatusResponse, error) {
	if n.Statuser == nil {
		return &nodev1.GroupStatusResponse{}, nil
	}
	return n.Statuser.GroupStatus(ctx, req.GetGroup())
}

// Control is the ControlService of a control node.
type Control struct {
	nodev1.UnimplementedControlServiceServer
	Service   *control.Service
	Snapshots *snapshot.Holder
	// Stopping ends the streams, so that nodes go to another control node.
	Stopping <-chan struct{}
}

// Register adds the service to a server.
func (c *Control) Register(s *rpc.Server) error {
	return s.Register(&nodev1.ControlService_ServiceDesc, c, map[string]rpc.Right{
		"Join": rpc.Join, "EnsureTopic": rpc.Node, "EnsureSubscription": rpc.Node,
	})
}

// EnsureTopic implements ControlService.
func (c *Control) EnsureTopic(ctx context.Context, req *nodev1.EnsureTopicRequest) (*nodev1.EnsureTopicResponse, error) {
	snap, err := c.Service.EnsureTopic(ctx, req.GetTopic())
	if err != nil {
		return nil, err
	}
	return &nodev1.EnsureTopicResponse{Snapshot: snapshot.ToProto(snap)}, nil
}

// EnsureSubscription implements ControlService.
func (c *Control) EnsureSubscription(ctx context.Context, req *nodev1.EnsureSubscriptionRequest) (*nodev1.EnsureSubscriptionResponse, error) {
	subs := map[string]snapshot.Settings{}
	for _, s := range req.GetSubscriptions() {
		if _, twice := subs[s.GetTopic()]; twice {
			return nil, fault.New(fault.InvalidArgument, "topic %q stands there twice", s.GetTopic())
		}
		subs[s.GetTopic()] = snapshot.SettingsFromProto(s)
	}
	snap, err := c.Service.EnsureSubscription(ctx, req.GetGroup(), subs)
	if err != nil {
		return nil, err
	}
	return &nodev1.EnsureSubscriptionResponse{Snapshot: snapshot.ToProto(snap)}, nil
}

// sendAtMost is the least time between two snapshots on one stream: changes in between travel together.
const sendAtMost = 100 * time.Millisecond

type joinStream = nodev1.ControlService_JoinServer

// Join implements ControlService: the first frame registers the node, the
// others are beats. Each beat is answered; a snapshot goes out as it changes.
func (c *Control) Join(stream joinStream) error {
	ctx := stream.Context()
	hello, err := stream.Recv()
	if err != nil {
		return err
	}
	member, err := c.Service.Join(ctx, rpc.Who(ctx), nodeOf(hello), hello.GetSnapshotVersion())
	if err != nil {
		return err
	}
	beats := make(chan *nodev1.JoinRequest)
	end := make(chan error, 1)
	go func() { // ends with the stream, which ends when Join returns
		for {
			req, err := stream.Recv()
			if err != nil {
				end <- err
				return
			}
			select {
			case beats <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	return c.serve(stream, member, beats, end, hello.GetSnapshotVersion())
}

func (c *Control) serve(stream joinStream, member *control.Member, beats <-chan *nodev1.JoinRequest, end <-chan error, sent uint64) error {
	pause := time.NewTimer(0) // when the next snapshot may go out
	defer pause.Stop()
	if err := stream.Send(&nodev1.JoinResponse{}); err != nil { // the answer to the greeting, at once
		return err
	}
	for {
		changed := c.Snapshots.Changed()
		fresh := c.Snapshots.Current().Version > sent
		ready := pause.C
		if !fresh {
			ready = nil
		} else {
			changed = nil
		}
		select {
		case <-changed:
		case <-ready:
			snap := c.Snapshots.Current()
			if err := stream.Send(&nodev1.JoinResponse{Snapshot: snapshot.ToProto(snap)}); err != nil {
				return err
			}
			sent = snap.Version
			pause.Reset(sendAtMost)
		case beat := <-beats:
			if !member.Beat(beat.GetDraining()) {
				return fault.New(fault.Conflict, "another node joined under this name; give each node a name of its own with --node")
			}
			if err := stream.Send(&nodev1.JoinResponse{}); err != nil {
				return err
			}
		case err := <-end:
			if errors.Is(err, io.EOF) {
				member.Leave()
				return nil
			}
			return err // a broken stream: the node has until its next beat is overdue
		case <-c.Stopping:
			return fault.New(fault.GoAway, "this control node is stopping; join another one, or wait")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func nodeOf(req *nodev1.JoinRequest) snapshot.Node {
	n := req.GetNode()
	return snapshot.Node{
		Name: n.GetName(), GRPC: n.GetGrpc(), HTTP: n.GetHttp(), Datacenter: n.GetDatacenter(), Roles: n.GetRoles(),
		Build: req.GetBuild(), Draining: req.GetDraining(),
	}
}
