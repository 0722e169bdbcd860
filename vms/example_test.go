package vms_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/aethervm/aether/vms"
)

func ExampleParse() {
	vm, err := vms.Parse("Cloud_Hypervisor")
	fmt.Println(vm, vm.DisplayName(), err)

	_, err = vms.Parse("firecraker")
	var unknown *vms.UnknownNameError
	fmt.Println(errors.As(err, &unknown), unknown.Suggestion)
	// Output:
	// cloud-hypervisor Cloud Hypervisor <nil>
	// true firecracker
}

func ExampleRank() {
	if err := vms.WriteRanking(os.Stdout, vms.Rank(vms.Equal())); err != nil {
		log.Fatal(err)
	}
	// Output:
	// system            fitness  start  density  isolation  snapshot  agent-control  evidence
	// gvisor            0.3993   0.17   0.62     0.30       0.47      0.44           3 published, 8 judged
	// qemu-kvm          0.3921   0.28   0.39     0.45       0.40      0.44           4 published, 8 judged
	// firecracker       0.3901   0.31   0.40     0.45       0.47      0.31           5 published, 9 judged
	// cloud-hypervisor  0.3721   0.34   0.40     0.45       0.35      0.31           4 published, 8 judged
	// docker            0.2994   0.15   0.68     0.01       0.25      0.41           2 published, 7 judged
	// kata              0.2562   0.19   0.23     0.45       0.10      0.31           4 published, 7 judged
	// aethervm          0.0000   0.00   0.00     0.00       0.00      0.00           none [1]
	// [1] aethervm: nothing measured yet in this repository, and nothing else counts, so every axis is 0
	// A metric without evidence earns nothing; a system's profile names its gaps.
	// Published figures are from different hardware and definitions: see docs/RUBRIC.md.
}

func ExampleRank_weights() {
	weights, err := vms.ParseWeights("multi-tenant")
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range vms.Rank(weights) {
		fmt.Printf("%s %.2f\n", p.VM, p.Fitness)
	}
	// Output:
	// qemu-kvm 0.41
	// firecracker 0.41
	// cloud-hypervisor 0.41
	// gvisor 0.37
	// kata 0.34
	// docker 0.22
	// aethervm 0.00
}

func ExampleVM_Profile() {
	p := vms.GVisor.Profile()
	fmt.Println(p)
	for _, e := range p.Evidence {
		if e.Axis == vms.Density {
			fmt.Println(e.Kind, e.Metric, *e.Value, e.Unit, e.Date)
		}
	}
	fmt.Println(p.Gaps()[0])
	// Output:
	// gvisor: fitness 0.40 (start-latency 0.17, density 0.62, isolation 0.30, snapshotting 0.47, agent-control 0.44)
	// published density.idle_mib 22.6 MiB 2020
	// judged density.fixed_mib 0 MiB 2026
	// start.cold.p99_ms
}

func ExampleCompare() {
	c := vms.Compare(vms.GVisor, vms.Docker)
	fmt.Println(c)
	if err := json.NewEncoder(os.Stdout).Encode(c); err != nil {
		log.Fatal(err)
	}
	// Output:
	// gvisor vs docker: fitness +0.10 (start-latency +0.03, density -0.07, isolation +0.29, snapshotting +0.22, agent-control +0.03)
	// {"a":"gvisor","b":"docker","fitness":0.0999,"axes":{"start-latency":0.0265,"density":-0.0654,"isolation":0.2879,"snapshotting":0.2191,"agent-control":0.0312}}
}

func ExampleWriteComparison() {
	if err := vms.WriteComparison(os.Stdout, vms.Firecracker.Profile(), vms.Kata.Profile()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// score          firecracker  kata  difference
	// fitness        0.39         0.26  +0.13
	// start-latency  0.31         0.19  +0.12
	// density        0.40         0.23  +0.17
	// isolation      0.45         0.45  +0.00
	// snapshotting   0.47         0.10  +0.37
	// agent-control  0.31         0.31  +0.00
	// Positive: firecracker fits better.
}

// Measured results are scored by the same rubric as published evidence.
func ExampleNewProfile() {
	evidence := vms.Measured(vms.Metrics{
		"start.cold.p50_ms":   31.6,
		"density.idle_mib":    8,
		"isolation.new_probe": 1, // of no component: kept as evidence, not scored
	}, "bench/results/2026-11-24, 2 CPUs", "2026-11-24")
	p := vms.NewProfile(vms.Docker, evidence)
	fmt.Println(p)
	fmt.Println(vms.Explain(vms.Density, vms.MetricsOf(p.Evidence))[0].Score)
	// Output:
	// docker: fitness 0.17 (start-latency 0.25, density 0.59, isolation 0.00, snapshotting 0.00, agent-control 0.00)
	// 0.7
}
