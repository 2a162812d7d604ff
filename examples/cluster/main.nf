// A process for each slide:  nextflow run examples/cluster/main.nf --slides 'slides/*.svs' --model nuclei.safetensors --out out
params.slides = 'slides/*.svs'
params.model = 'nuclei.safetensors'
params.out = 'out'

process SEGMENT {
    tag "${slide.simpleName}"
    cpus 4
    memory '4 GB'
    // A task that had no memory, was stopped or was killed is tried again.
    errorStrategy { task.exitStatus in [6, 75, 137] ? 'retry' : 'ignore' }
    maxRetries 2
    publishDir params.out, mode: 'copy'

    input:
    path slide
    path model

    output:
    path 'out/*.geojson.gz'
    path 'out/*.csv'

    script:
    """
    histosynth segment ${slide} --model ${model} -o out --format geojson,csv --workers ${task.cpus} --max-memory 3.5G
    """
}

workflow {
    SEGMENT(Channel.fromPath(params.slides, checkIfExists: true), file(params.model))
}
