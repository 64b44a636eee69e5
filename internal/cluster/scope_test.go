package cluster

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestDriverOpenedAnewTakesOverItsSeries(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	driver := func(value float64) *scope {
		s := newScope(reg, "k")
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "bytes", Help: "help"})
		g.Set(value)
		s.MustRegister(g)
		return s
	}
	driver(1)
	second := driver(2)
	if n, err := testutil.GatherAndCount(reg, "bytes"); err != nil || n != 1 {
		t.Fatalf("%d series (%v), want the newest driver's one", n, err)
	}
	if got, _ := reg.Gather(); got[0].GetMetric()[0].GetGauge().GetValue() != 2 { //nolint:errcheck // checked above
		t.Error("the series is the old driver's")
	}
	second.end()
	if n, _ := testutil.GatherAndCount(reg, "bytes"); n != 0 { //nolint:errcheck // nothing to gather
		t.Errorf("%d series of a cluster that is gone", n)
	}
}
