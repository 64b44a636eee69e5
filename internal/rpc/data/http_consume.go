package data

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
)

// postPull settles and leases.
func (s *Service) postPull(w http.ResponseWriter, r *http.Request) error {
	group, err := pathName(r, "group")
	if err != nil {
		return err
	}
	var in pullBody
	if err := s.jsonBody(w, r, ackBodyLimit, &in); err != nil {
		return err
	}
	req, rejected, err := in.request(group)
	if err != nil {
		return err
	}
	ctx := r.Context()
	resp, err := s.Pull(ctx, req)
	if err != nil {
		return err
	}
	now := s.now()
	b := make([]byte, 0, 256+1024*len(resp.GetMessages()))
	b = append(b, `{"messages":[`...)
	for i, d := range resp.GetMessages() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendDelivery(b, d, now)
	}
	b = append(b, `],"ack_results":`...)
	b, _ = appendAckResults(b, mergeAcks(resp.GetAckResults(), rejected, len(in.Acks)))
	if err := writeLeased(w, append(b, "}\n"...)); err != nil {
		s.giveBack(context.WithoutCancel(ctx), rpc.Who(ctx), group, "unwritten", resp.GetMessages())
		return err
	}
	return nil
}

// writeLeased writes and flushes within a bound, so that an answer that stays in this process is known to have done so.
func writeLeased(w http.ResponseWriter, body []byte) error {
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(settleTimeout)) // not supported by recorders in tests: then there is none
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	if err := writeJSON(w, http.StatusOK, body); err != nil {
		return err
	}
	if err := rc.Flush(); err != nil {
		return unwritten{err}
	}
	return nil
}

// request turns the body into the form of gRPC. Acks of the wrong shape are answered for themselves (rejected, by
// index) and spoil neither the others nor the pull.
func (in *pullBody) request(group string) (*sluicev1.PullRequest, map[int]*sluicev1.AckResult, error) {
	wait, err := pick("wait", in.Wait, uint64(in.WaitMS))
	if err != nil {
		return nil, nil, err
	}
	lease, err := pick("lease", in.Lease, uint64(in.LeaseMS))
	if err != nil {
		return nil, nil, err
	}
	order, ok := orderNames[in.Order]
	if !ok {
		return nil, nil, invalid("order %q is unknown; use none, key or partition", cut(in.Order, 40))
	}
	if in.Filter != "" || in.FilterLanguage != "" {
		return nil, nil, fault.New(fault.Unsupported, "filters are not supported by this release; leave filter and filter_language out")
	}
	acks, rejected := decodeAckBodies(in.Acks)
	return &sluicev1.PullRequest{
		Subscription: &sluicev1.Subscription{
			Group: group, Topics: in.Topics, Order: order, Start: in.From,
			LeaseMs: uint32(lease.Milliseconds()), MaxInFlight: in.MaxInFlight, //nolint:gosec // pick bounds it
		},
		MaxMessages: in.MaxMessages, WaitMs: uint32(wait.Milliseconds()), Client: in.Client, Acks: acks, //nolint:gosec // likewise
	}, rejected, nil
}

var orderNames = map[string]sluicev1.Order{
	"": sluicev1.Order_ORDER_UNSPECIFIED, "none": sluicev1.Order_ORDER_NONE, "key": sluicev1.Order_ORDER_KEY, "partition": sluicev1.Order_ORDER_PARTITION,
}

var actionNames = map[string]sluicev1.Action{
	"accept": sluicev1.Action_ACTION_ACCEPT, "release": sluicev1.Action_ACTION_RELEASE, "reject": sluicev1.Action_ACTION_REJECT,
	"renew": sluicev1.Action_ACTION_RENEW, "return": sluicev1.Action_ACTION_RETURN,
}

// decodeAckBodies gives the well-formed acks, in order, and the results of the others by index.
func decodeAckBodies(in []ackBody) ([]*sluicev1.Ack, map[int]*sluicev1.AckResult) {
	var rejected map[int]*sluicev1.AckResult
	acks := make([]*sluicev1.Ack, 0, len(in))
	for i := range in {
		a, err := in[i].ack()
		if err == nil {
			acks = append(acks, a)
			continue
		}
		if rejected == nil {
			rejected = make(map[int]*sluicev1.AckResult)
		}
		rejected[i] = &sluicev1.AckResult{Error: rpc.ToProto(err)}
	}
	return acks, rejected
}

func (a *ackBody) ack() (*sluicev1.Ack, *fault.Error) {
	action, ok := actionNames[a.Action]
	if !ok {
		return nil, fault.New(fault.InvalidArgument, "action %q is unknown; use accept, release, reject or renew", cut(a.Action, 40))
	}
	receipt, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(a.Receipt, "="))
	if err != nil || len(receipt) == 0 {
		return nil, fault.New(fault.ReceiptInvalid, "the receipt is empty or damaged; send it as it was delivered")
	}
	delay, err := pick("delay", a.Delay, uint64(a.DelayMS))
	if err != nil {
		return nil, fault.New(fault.InvalidArgument, "%s", textOf(err))
	}
	return &sluicev1.Ack{Receipt: receipt, Action: action, DelayMs: uint32(delay.Milliseconds()), Cause: a.Cause}, nil //nolint:gosec // pick bounds it
}

// mergeAcks puts results back where their acks stood.
func mergeAcks(results []*sluicev1.AckResult, rejected map[int]*sluicev1.AckResult, n int) []*sluicev1.AckResult {
	if len(rejected) == 0 {
		return results
	}
	out := make([]*sluicev1.AckResult, n)
	next := 0
	for i := range out {
		if r := rejected[i]; r != nil {
			out[i] = r
		} else if next < len(results) {
			out[i] = results[next]
			next++
		}
	}
	return out
}

// postAck settles: 200 where all are recorded, else 207.
func (s *Service) postAck(w http.ResponseWriter, r *http.Request) error {
	group, err := pathName(r, "group")
	if err != nil {
		return err
	}
	var in acksBody
	if err := s.jsonBody(w, r, ackBodyLimit, &in); err != nil {
		return err
	}
	if len(in.Acks) == 0 {
		return errNoAcks
	}
	acks, rejected := decodeAckBodies(in.Acks)
	var results []*sluicev1.AckResult
	if len(acks) > 0 {
		if results, err = s.settle(r.Context(), rpc.Who(r.Context()), group, acks); err != nil {
			return err
		}
	}
	b, failed := appendAckResults([]byte(`{"results":`), mergeAcks(results, rejected, len(in.Acks)))
	status := http.StatusOK
	if failed > 0 {
		status = http.StatusMultiStatus
	}
	return writeJSON(w, status, append(b, "}\n"...))
}

// getNodes lists nodes.
func (s *Service) getNodes(w http.ResponseWriter, r *http.Request) error {
	resp, err := s.Nodes(r.Context(), &sluicev1.NodesRequest{Group: r.URL.Query().Get("group")})
	if err != nil {
		return err
	}
	b := []byte(`{"nodes":[`)
	for i, n := range resp.GetNodes() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendField(b, `{"name":`, n.GetName())
		b = appendField(b, `,"grpc":`, n.GetGrpc())
		b = appendField(b, `,"http":`, n.GetHttp())
		b = append(b, `,"roles":[`...)
		for j, role := range n.GetRoles() {
			if j > 0 {
				b = append(b, ',')
			}
			b = rpc.AppendQuote(b, role)
		}
		b = appendField(b, `],"datacenter":`, n.GetDatacenter())
		b = append(b, '}')
	}
	b = append(b, `],"snapshot_version":"`...)
	b = appendUint(b, resp.GetSnapshotVersion())
	return writeJSON(w, http.StatusOK, append(b, "\"}\n"...))
}
