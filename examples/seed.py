"""The first example of workerbee's first README: three jobs, one of them with data.

It expects a PostgreSQL on localhost; any PG* variable or argument may say otherwise.
"""

from time import sleep

from workerbee.postgresql import postgres_jobset


def my_job(job_id, job_data):
    print(f'\n\n - processing job {job_id} with data: {job_data}\n\n')
    sleep(1)


postgres_jobset('texturemap_2016_08_25', my_job,
                job_ids=['id1', 'id2', 'id3'],
                job_data={'id1': {'some': 2, 'data': 'here'}},
                host='localhost', port='5432',
                user='postgres', database='postgres', verbose=True)
