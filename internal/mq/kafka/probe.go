package kafka

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluice-mq/sluice/internal/mq"
)

// Probe implements mq.Driver: it asks every broker that the cluster names. Where the cluster cannot be asked at all,
// the bootstrap addresses stand for it.
func (d *Driver) Probe(ctx context.Context) []mq.BrokerHealth {
	ctx, cancel := d.bound(ctx, d.cfg.AdminTimeout)
	defer cancel()
	half, stop := context.WithTimeout(ctx, d.cfg.AdminTimeout/2)
	defer stop()
	if _, err := d.Caps(half); err != nil {
		return d.unreachable(err)
	}
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	if d.version(3) < 1 {
		req.Topics = nil // version 0 has no way to ask for none
	}
	resp, err := req.RequestWith(half, d.slow)
	if err != nil {
		return d.unreachable(transportError(err))
	}
	health := make([]mq.BrokerHealth, len(resp.Brokers))
	var wg sync.WaitGroup
	for i, b := range resp.Brokers {
		wg.Go(func() {
			h := mq.BrokerHealth{
				Broker: strconv.Itoa(int(b.NodeID)), Address: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))),
				Controller: b.NodeID == resp.ControllerID, Rack: value(b.Rack),
			}
			start := time.Now()
			if _, err := d.slow.Broker(int(b.NodeID)).Request(ctx, apiVersions()); err != nil {
				e := *transportError(err)
				e.Broker = h.Broker
				h.Err = &e
			}
			h.Latency = time.Since(start)
			health[i] = h
		})
	}
	wg.Wait()
	slices.SortFunc(health, func(a, b mq.BrokerHealth) int { return cmp.Compare(a.Broker, b.Broker) })
	return health
}

func (d *Driver) unreachable(err error) []mq.BrokerHealth {
	health := make([]mq.BrokerHealth, len(d.cfg.Bootstrap))
	for i, a := range d.cfg.Bootstrap {
		health[i] = mq.BrokerHealth{Address: a, Err: err}
	}
	return health
}
