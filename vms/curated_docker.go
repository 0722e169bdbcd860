package vms

func docker() []Evidence {
	seccomp := source{"Docker documentation, seccomp security profiles", "https://docs.docker.com/engine/security/seccomp/", "2026"}
	checkpoint := source{"Docker documentation, docker checkpoint", "https://docs.docker.com/reference/cli/docker/checkpoint/", "2026"}
	pause := source{"Docker documentation, docker container pause", "https://docs.docker.com/reference/cli/docker/container/pause/", "2026"}
	api := source{"Docker Engine API v1.49", "https://docs.docker.com/reference/api/engine/version/v1.49/", "2025"}
	return []Evidence{
		published("start.cold.p50_ms", 350, "about 100 ms for the runtime alone plus about 250 ms that the daemon adds, over 300 "+
			"runs, from process start to the end of the program", middleware21),

		published("density.idle_mib", 3.90, "fall of the host's available memory for each of 50 idle containers (4,092,150 "+
			"bytes); no Python run, and what the daemon takes is left out", gvisorDensity),

		judged("isolation.separate_kernel_ratio", 0, "system calls go to the host's kernel, through a filter", seccomp),
		judged("isolation.hardware_boundary_ratio", 0, "containers are host processes", seccomp),
		judged("isolation.syscalls_count", 256, "the default profile denies about 44 of more than 300 system calls: at "+
			"least 256 remain", seccomp),

		judged("snapshot.memory_survives_ratio", 0.5, "docker checkpoint is experimental and needs CRIU", checkpoint),
		judged("snapshot.files_survive_ratio", 0.5, "a checkpoint is started again in its own container, which keeps its files", checkpoint),
		judged("snapshot.pause_ratio", 1, "the freezer cgroup suspends all processes", pause),

		judged("control.jobs_ratio", 6.5/8, "life cycle, exec, streams, files, statistics and pause; checkpoints count half, "+
			"as an experiment; no copies of a running container", api),
	}
}
