package kafka

import (
	"context"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Kafka's limit of a partition's commit metadata (offset.metadata.max.bytes, characters), and of a batch.
const (
	defaultCommitMetadata = 4096
	defaultMaxBatch       = 1000012 // message.max.bytes before 2.5; later 1048588
)

// capsCache holds what the cluster can do, once it was asked.
type capsCache struct {
	mu       sync.Mutex // guards the rest
	known    *mq.Caps
	versions map[int16]int16 // highest version by request key
	asking   chan struct{}   // closed when the question in flight is answered
}

// Caps implements mq.Driver. It is asked of the first bootstrap address that answers; the error of a cluster
// that cannot be reached names the addresses.
func (d *Driver) Caps(ctx context.Context) (mq.Caps, error) {
	c := &d.caps
	for {
		c.mu.Lock()
		if c.known != nil {
			defer c.mu.Unlock()
			return *c.known, nil
		}
		if d.isClosed() {
			c.mu.Unlock()
			return mq.Caps{}, errClosed()
		}
		wait := c.asking
		if wait == nil {
			wait = make(chan struct{})
			c.asking = wait
			c.mu.Unlock()
			caps, versions, err := d.askCaps(ctx)
			c.mu.Lock()
			if err == nil {
				c.known, c.versions = &caps, versions
			}
			c.asking = nil
			close(wait)
			c.mu.Unlock()
			return caps, err
		}
		c.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return mq.Caps{}, &mq.Error{Class: mq.Timeout, Msg: "the cluster's capabilities were not told in time", Cause: ctx.Err()}
		}
	}
}

// knownCaps is what was learned so far; nil before the first answer.
func (d *Driver) knownCaps() *mq.Caps {
	d.caps.mu.Lock()
	defer d.caps.mu.Unlock()
	return d.caps.known
}

// version is the highest version that the cluster takes of a request, -1 for none. Caps must have succeeded.
func (d *Driver) version(key int16) int16 {
	d.caps.mu.Lock()
	defer d.caps.mu.Unlock()
	if v, ok := d.caps.versions[key]; ok {
		return v
	}
	return -1
}

// lowerCommitMetadata notes that the cluster takes less metadata with a commit than assumed.
func (d *Driver) lowerCommitMetadata(refused int) {
	d.caps.mu.Lock()
	defer d.caps.mu.Unlock()
	if d.caps.known == nil || refused > d.caps.known.CommitMetadata {
		return
	}
	c := *d.caps.known
	c.CommitMetadata = refused / 2
	d.caps.known = &c
	d.log.Warn("the cluster refuses commit metadata of this size; ack maps get smaller", "bytes", refused, "limit", c.CommitMetadata)
}

type seedAnswer struct {
	resp *kmsg.ApiVersionsResponse
	err  error
}

func (d *Driver) askCaps(ctx context.Context) (mq.Caps, map[int16]int16, error) {
	ctx, cancel := d.bound(ctx, d.cfg.AdminTimeout)
	defer cancel()
	// The client with the short time-outs: what is no Kafka often does not answer at all.
	seeds := d.data.SeedBrokers()
	answers := make(chan seedAnswer, len(seeds))
	for i, b := range seeds {
		go func() { // ends with ctx, at the latest
			r, err := b.Request(ctx, apiVersions())
			if err == nil {
				err = kerr.ErrorForCode(r.(*kmsg.ApiVersionsResponse).ErrorCode)
			}
			if err != nil {
				answers <- seedAnswer{err: d.seedError(i, err)}
				return
			}
			answers <- seedAnswer{resp: r.(*kmsg.ApiVersionsResponse)}
		}()
	}
	var worst *mq.Error
	for range seeds {
		a := <-answers
		if a.err != nil {
			e := transportError(a.err)
			if worst == nil || e.Class == mq.Auth || e.Class == mq.Invalid {
				worst = e
			}
			continue
		}
		caps, versions := capsOf(a.resp)
		d.refineCaps(ctx, &caps, versions)
		return caps, versions, nil
	}
	return mq.Caps{}, nil, worst
}

// apiVersions is a request that brokers take only with a name in it, from version 3 on.
func apiVersions() *kmsg.ApiVersionsRequest {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "sluice", "1"
	return req
}

// seedError names the bootstrap address, and what to do about it.
func (d *Driver) seedError(i int, err error) error {
	addr := d.cfg.Bootstrap[min(i, len(d.cfg.Bootstrap)-1)]
	e := *transportError(err)
	e.Broker = addr
	switch {
	case notKafka(err):
		e.Class = mq.Invalid
		e.Msg = "this address does not answer like a Kafka broker; check the port, and whether it wants TLS or SASL"
	case dialFailed(err):
		e.Msg = "cannot connect"
	case e.Class == mq.Timeout:
		e.Msg = "it takes connections, but does not answer in Kafka's protocol; check the port, and whether it wants TLS"
	case e.Class == mq.Conn && d.cfg.SASL.Mechanism != "":
		e.Msg = "it ended the connection, as some brokers do on wrong credentials"
	}
	return &e
}

func capsOf(r *kmsg.ApiVersionsResponse) (mq.Caps, map[int16]int16) {
	v := make(map[int16]int16, len(r.ApiKeys))
	for _, k := range r.ApiKeys {
		v[k.ApiKey] = k.MaxVersion
	}
	at := func(key, least int16) bool { got, ok := v[key]; return ok && got >= least }
	return mq.Caps{
		Headers:        at(0, 3),
		Idempotent:     at(0, 3) && at(22, 0),
		CommitMetadata: defaultCommitMetadata,
		NativeGroups:   true,
		FencedCommits:  true,
		CreateTopics:   at(19, 0),
		// The request is there since 0.10.1, but before 1.0 (which brought CreatePartitions) brokers let it time out unless
		// delete.topic.enable was set.
		DeleteTopics:  at(20, 0) && at(37, 0),
		AddPartitions: at(37, 0),
		DeleteGroups:  at(42, 0),
		TopicConfigs:  at(32, 0) && at(33, 0),
		DeleteRecords: at(21, 0),
		TimeLookup:    at(2, 1),
		// An acknowledgement of Kafka means "on all in-sync replicas", in their page caches.
		SyncedBeforeAck: false,
		MaxRecordBytes:  defaultMaxBatch - 512,
		Version:         kversion.FromApiVersionsResponse(r).VersionGuess(),
	}, v
}

// refineCaps asks a broker for its default limit; where it cannot be told the oldest default stays.
func (d *Driver) refineCaps(ctx context.Context, caps *mq.Caps, versions map[int16]int16) {
	if _, ok := versions[32]; !ok {
		return
	}
	mreq := kmsg.NewPtrMetadataRequest()
	mreq.Topics = []kmsg.MetadataRequestTopic{}
	mresp, err := mreq.RequestWith(ctx, d.slow)
	if err != nil || len(mresp.Brokers) == 0 {
		return
	}
	id := mresp.Brokers[0].NodeID
	req := kmsg.NewPtrDescribeConfigsRequest()
	res := kmsg.NewDescribeConfigsRequestResource()
	res.ResourceType = kmsg.ConfigResourceTypeBroker
	res.ResourceName = strconv.Itoa(int(id))
	res.ConfigNames = []string{"message.max.bytes"}
	req.Resources = append(req.Resources, res)
	kresp, err := d.slow.Broker(int(id)).Request(ctx, req)
	if err != nil {
		return
	}
	for _, r := range kresp.(*kmsg.DescribeConfigsResponse).Resources {
		for _, c := range r.Configs {
			if n, err := strconv.Atoi(value(c.Value)); c.Name == "message.max.bytes" && err == nil && n > 1024 {
				caps.MaxRecordBytes = n - 512
			}
		}
	}
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

var _ kgo.Logger = kgoLog{}
